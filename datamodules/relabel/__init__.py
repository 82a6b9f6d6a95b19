"""Images whose crops tell their boxes, with the label maps that another stage made of the whole images."""
