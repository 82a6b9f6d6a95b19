"""g_simclr"""
