"""Vector operations whose legacy and VEX forms follow one pattern (SDM volume 2).

sse.py and avx.py make their rows from these lists; what follows no pattern is written out there.
"""

# Packed integers with an MMX, an XMM and a YMM form: opcode in the 0F map, name, the feature that
# brought the MMX form.
INTEGER = """
60 PUNPCKLBW mmx
61 PUNPCKLWD mmx
62 PUNPCKLDQ mmx
63 PACKSSWB mmx
64 PCMPGTB mmx
65 PCMPGTW mmx
66 PCMPGTD mmx
67 PACKUSWB mmx
68 PUNPCKHBW mmx
69 PUNPCKHWD mmx
6A PUNPCKHDQ mmx
6B PACKSSDW mmx
74 PCMPEQB mmx
75 PCMPEQW mmx
76 PCMPEQD mmx
D1 PSRLW mmx
D2 PSRLD mmx
D3 PSRLQ mmx
D4 PADDQ sse2
D5 PMULLW mmx
D8 PSUBUSB mmx
D9 PSUBUSW mmx
DA PMINUB sse
DB PAND mmx
DC PADDUSB mmx
DD PADDUSW mmx
DE PMAXUB sse
DF PANDN mmx
E0 PAVGB sse
E1 PSRAW mmx
E2 PSRAD mmx
E3 PAVGW sse
E4 PMULHUW sse
E5 PMULHW mmx
E8 PSUBSB mmx
E9 PSUBSW mmx
EA PMINSW sse
EB POR mmx
EC PADDSB mmx
ED PADDSW mmx
EE PMAXSW sse
EF PXOR mmx
F1 PSLLW mmx
F2 PSLLD mmx
F3 PSLLQ mmx
F4 PMULUDQ sse2
F5 PMADDWD mmx
F6 PSADBW sse
F8 PSUBB mmx
F9 PSUBW mmx
FA PSUBD mmx
FB PSUBQ sse2
FC PADDB mmx
FD PADDW mmx
FE PADDD mmx
"""
LOW_UNPACKS = ("PUNPCKLBW", "PUNPCKLWD", "PUNPCKLDQ")  # their MMX forms read 4 bytes
SHIFTS = ("PSRLW", "PSRLD", "PSRLQ", "PSRAW", "PSRAD", "PSLLW", "PSLLD", "PSLLQ")  # count: 16 bytes

# The same in the 0F38 map (SSSE3), and those with no MMX form.
SSSE3 = """
00 PSHUFB
01 PHADDW
02 PHADDD
03 PHADDSW
04 PMADDUBSW
05 PHSUBW
06 PHSUBD
07 PHSUBSW
08 PSIGNB
09 PSIGNW
0A PSIGND
0B PMULHRSW
"""
SSSE3_UNARY = """
1C PABSB
1D PABSW
1E PABSD
"""
SSE4 = """
28 PMULDQ sse4_1
29 PCMPEQQ sse4_1
2B PACKUSDW sse4_1
37 PCMPGTQ sse4_2
38 PMINSB sse4_1
39 PMINSD sse4_1
3A PMINUW sse4_1
3B PMINUD sse4_1
3C PMAXSB sse4_1
3D PMAXSD sse4_1
3E PMAXUW sse4_1
3F PMAXUD sse4_1
40 PMULLD sse4_1
"""
EXTEND = """
20 PMOVSXBW h
21 PMOVSXBD f
22 PMOVSXBQ e
23 PMOVSXWD h
24 PMOVSXWQ f
25 PMOVSXDQ h
30 PMOVZXBW h
31 PMOVZXBD f
32 PMOVZXBQ e
33 PMOVZXWD h
34 PMOVZXWQ f
35 PMOVZXDQ h
"""

# Floating point: opcode, stem, the forms that exist.
FLOAT = """
54 AND PS PD
55 ANDN PS PD
56 OR PS PD
57 XOR PS PD
58 ADD PS PD SS SD
59 MUL PS PD SS SD
5C SUB PS PD SS SD
5D MIN PS PD SS SD
5E DIV PS PD SS SD
5F MAX PS PD SS SD
14 UNPCKL PS PD
15 UNPCKH PS PD
"""
FLOAT_UNARY = """
51 SQRT PS PD SS SD
52 RSQRT PS SS
53 RCP PS SS
"""
FORMS = {  # prefix, source operand, feature of the legacy form
    "PS": ("NP", "Wx", "sse"),
    "PD": ("66", "Wx", "sse2"),
    "SS": ("F3", "Wd", "sse"),
    "SD": ("F2", "Wq", "sse2"),
}

# Immediate shifts: opcode, digit, name, has an MMX form.
SHIFT_GROUPS = """
71 2 PSRLW mmx
71 4 PSRAW mmx
71 6 PSLLW mmx
72 2 PSRLD mmx
72 4 PSRAD mmx
72 6 PSLLD mmx
73 2 PSRLQ mmx
73 3 PSRLDQ -
73 6 PSLLQ mmx
73 7 PSLLDQ -
"""

FMA_ORDERS = ("132", "213", "231")  # opcodes 9x, Ax, Bx of the 0F38 map
FMA = """
6 FMADDSUB P
7 FMSUBADD P
8 FMADD P
9 FMADD S
A FMSUB P
B FMSUB S
C FNMADD P
D FNMADD S
E FNMSUB P
F FNMSUB S
"""


def split(text: str) -> list[list[str]]:
    return [line.split() for line in text.split("\n") if line]
