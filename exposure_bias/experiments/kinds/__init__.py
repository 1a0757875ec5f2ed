"""The kinds of results that experiments return, each in a file of its own.

The experiments run networks and need torch. What they return is read, shown and reported without
it, and so their kinds stand here and not in the experiments' own files."""
