from barevisor.cpu.bt.state cimport *
from barevisor.cpu.bt.atomics cimport *
