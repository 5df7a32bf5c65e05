"""MMX and SSE to SSE4.2, AES, PCLMULQDQ, SHA in their legacy encodings (SDM volume 2)."""

GROUPS: tuple[tuple[str, str, str], ...] = ()
