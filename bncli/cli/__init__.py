"""The command line: one thin file per command, over the library.

app.py        the application: which commands there are, and how errors become exit codes
options.py    options that several commands share
render.py     results -> tables and JSON documents
display.py    progress of long work, on stderr
"""
