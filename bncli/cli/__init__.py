"""The command line: one thin file per command, over the library.

app.py        the application: which commands there are, and how errors become exit codes
options.py    options that several commands share
render/       results -> tables and JSON documents
display.py    progress of long work, on stderr
console.py    consoles on which no text can drive the terminal
streams.py    the result on stdout: closed pipes, full devices, poor encodings
untrusted.py  texts from files, made safe to show
"""
