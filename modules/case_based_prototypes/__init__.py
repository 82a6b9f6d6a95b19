"""case_based_prototypes"""
