"""Networks, losses and LightningModules: a file or a folder for each paper, and `common` for what they share."""
