"""Data of MaEM-GAN: a ring of Gaussians, stacked digits, and photos whose FID is against the training images."""
