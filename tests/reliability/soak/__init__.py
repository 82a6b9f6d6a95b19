"""`make soak`: whether any result is lost or changed by what can happen to a machine."""
