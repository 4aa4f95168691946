"""Plausible bugs, put in one at a time: does the suite notice?"""
