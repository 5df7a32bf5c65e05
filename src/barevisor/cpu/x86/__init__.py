"""Facts about x86 that both engines use; tables first, no state."""
