"""Dataset Distillation via Curriculum Data Synthesis in Large Data Era (arXiv 2311.18838): module.py is the method."""
