"""Re-labeling ImageNet: label maps of whole images, pooled over the crops that students train on."""
