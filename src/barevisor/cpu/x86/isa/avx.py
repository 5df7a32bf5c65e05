"""AVX, AVX2, F16C, FMA and the VEX forms of AES and PCLMULQDQ (SDM volume 2)."""

GROUPS: tuple[tuple[str, str, str], ...] = ()
