"""What tools/study.py is made of: settings and networks compared on one data set."""
