# The instruction table compiled into the decoder's arrays. Only decode.py calls this.
from barevisor.cpu.bt.decode cimport *

cdef int fill_tables(RowFacts* table, Match* matches, Cell* cells) except? -1
