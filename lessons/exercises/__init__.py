"""Right answers and likely mistakes for the coded exercises, a module for each lesson.

You will learn more if you do not look here before you have tried.
"""
