# Functions of the core alone: nothing of it is called from Python.
