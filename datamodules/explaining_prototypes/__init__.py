"""explaining_prototypes"""
