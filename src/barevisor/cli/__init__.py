"""The `bare` command: one command per file. Parses, calls the library once, shows.

The file of a command has ABOUT (its help; the first line is its entry in `bare --help`) and
`main(words)`, which returns the exit code."""
