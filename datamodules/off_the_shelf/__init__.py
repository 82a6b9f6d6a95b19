"""off_the_shelf"""
