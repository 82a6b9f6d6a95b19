"""MaEM-GAN: mode collapse against the entropy of a discriminator's codes (arXiv 2208.12055)."""
