"""MMX and SSE to SSE4.2, AES, PCLMULQDQ, SHA in their legacy encodings (SDM volume 2)."""

from barevisor.cpu.x86.isa import vector


def _integer() -> tuple[str, str]:
    """(MMX rows, XMM rows) of the packed integer operations."""
    mmx = []
    xmm = []
    for code, name, feature in vector.split(vector.INTEGER):
        source = "Qd" if name in vector.LOW_UNPACKS else "Qq"
        mmx.append(f"NP 0F {code} /r | {name} Pq+,{source} | copy | f={feature}")
        xmm.append(f"66 0F {code} /r | {name} Vx+,Wx | copy | f=sse2")
    for rows, dest in ((vector.SSSE3, "+"), (vector.SSSE3_UNARY, "=")):
        for code, name in vector.split(rows):
            mmx.append(f"NP 0F 38 {code} /r | {name} Pq{dest},Qq | copy | f=ssse3")
            xmm.append(f"66 0F 38 {code} /r | {name} Vx{dest},Wx | copy | f=ssse3")
    for code, digit, name, feature in vector.split(vector.SHIFT_GROUPS):
        if feature != "-":
            mmx.append(f"NP 0F {code} /{digit} | {name} Nq+,Ib | copy | f=mmx")
        xmm.append(f"66 0F {code} /{digit} | {name} Ux+,Ib | copy | f=sse2")
    for code, name, feature in vector.split(vector.SSE4):
        xmm.append(f"66 0F 38 {code} /r | {name} Vx+,Wx | copy | f={feature}")
    for code, name, size in vector.split(vector.EXTEND):
        xmm.append(f"66 0F 38 {code} /r | {name} Vx=,W{size} | copy | f=sse4_1")
    return "\n".join(mmx), "\n".join(xmm)


def _float() -> str:
    rows = []
    for table, packed in ((vector.FLOAT, "+"), (vector.FLOAT_UNARY, "=")):
        for code, name, *forms in vector.split(table):
            for form in forms:
                prefix, source, feature = vector.FORMS[form]
                dest = packed if form[0] == "P" else "+"
                rows.append(
                    f"{prefix} 0F {code} /r | {name}{form} Vx{dest},{source} | copy | f={feature}"
                )
    for form, (prefix, source, feature) in vector.FORMS.items():
        rows.append(f"{prefix} 0F C2 /r | CMP{form} Vx+,{source},Ib | copy | f={feature}")
    return "\n".join(rows)


MMX = """
NP 0F 6E /r | MOVD Pq=,Ey         | copy |
NP 0F 6F /r | MOVQ Pq=,Qq         | copy |
NP 0F 70 /r | PSHUFW Pq=,Qq,Ib    | copy | f=sse
NP 0F 77    | EMMS                | emms |
NP 0F 7E /r | MOVD Ey=,Pq         | copy |
NP 0F 7F /r | MOVQ Qq=,Pq         | copy |
NP 0F C4 /r | PINSRW Pq+,Eyw,Ib   | copy | f=sse
NP 0F C5 /r | PEXTRW Gy=,Nq,Ib    | copy | f=sse
NP 0F D7 /r | PMOVMSKB Gy=,Nq     | copy | f=sse
NP 0F E7 /r | MOVNTQ Mq=,Pq       | copy | f=sse
NP 0F F7 /r | MASKMOVQ Pq,Nq      | maskmovq | f=sse in=rdi
NP 0F 3A 0F /r | PALIGNR Pq+,Qq,Ib | copy | f=ssse3
"""

SSE = """
NP 0F 10 /r | MOVUPS Vx=,Wx       | copy | ua
NP 0F 11 /r | MOVUPS Wx=,Vx       | copy | ua
F3 0F 10 /r | MOVSS Vx=,Md        | copy |
F3 0F 10 /r | MOVSS Vx+,Ud        | copy |
F3 0F 11 /r | MOVSS Md=,Vx        | copy |
F3 0F 11 /r | MOVSS Ud+,Vx        | copy |
NP 0F 12 /r | MOVLPS Vx+,Mq       | copy |
NP 0F 12 /r | MOVHLPS Vx+,Ux      | copy |
NP 0F 13 /r | MOVLPS Mq=,Vx       | copy |
NP 0F 16 /r | MOVHPS Vx+,Mq       | copy |
NP 0F 16 /r | MOVLHPS Vx+,Ux      | copy |
NP 0F 17 /r | MOVHPS Mq=,Vx       | copy |
NP 0F 28 /r | MOVAPS Vx=,Wx       | copy |
NP 0F 29 /r | MOVAPS Wx=,Vx       | copy |
NP 0F 2A /r | CVTPI2PS Vx+,Qq     | copy |
F3 0F 2A /r | CVTSI2SS Vx+,Ey     | copy |
NP 0F 2B /r | MOVNTPS Mx=,Vx      | copy |
NP 0F 2C /r | CVTTPS2PI Pq=,Wq    | copy |
F3 0F 2C /r | CVTTSS2SI Gy=,Wd    | copy |
NP 0F 2D /r | CVTPS2PI Pq=,Wq     | copy |
F3 0F 2D /r | CVTSS2SI Gy=,Wd     | copy |
NP 0F 2E /r | UCOMISS Vx,Wd       | copy | w=oszapc
NP 0F 2F /r | COMISS Vx,Wd        | copy | w=oszapc
NP 0F 50 /r | MOVMSKPS Gy=,Ux     | copy |
NP 0F C6 /r | SHUFPS Vx+,Wx,Ib    | copy |
"""

SSE2 = """
66 0F 10 /r | MOVUPD Vx=,Wx       | copy | ua
66 0F 11 /r | MOVUPD Wx=,Vx       | copy | ua
F2 0F 10 /r | MOVSD Vx=,Mq        | copy |
F2 0F 10 /r | MOVSD Vx+,Uq        | copy |
F2 0F 11 /r | MOVSD Mq=,Vx        | copy |
F2 0F 11 /r | MOVSD Uq+,Vx        | copy |
66 0F 12 /r | MOVLPD Vx+,Mq       | copy |
66 0F 13 /r | MOVLPD Mq=,Vx       | copy |
66 0F 16 /r | MOVHPD Vx+,Mq       | copy |
66 0F 17 /r | MOVHPD Mq=,Vx       | copy |
66 0F 28 /r | MOVAPD Vx=,Wx       | copy |
66 0F 29 /r | MOVAPD Wx=,Vx       | copy |
66 0F 2A /r | CVTPI2PD Vx=,Qq     | copy |
F2 0F 2A /r | CVTSI2SD Vx+,Ey     | copy |
66 0F 2B /r | MOVNTPD Mx=,Vx      | copy |
66 0F 2C /r | CVTTPD2PI Pq=,Wx    | copy |
F2 0F 2C /r | CVTTSD2SI Gy=,Wq    | copy |
66 0F 2D /r | CVTPD2PI Pq=,Wx     | copy |
F2 0F 2D /r | CVTSD2SI Gy=,Wq     | copy |
66 0F 2E /r | UCOMISD Vx,Wq       | copy | w=oszapc
66 0F 2F /r | COMISD Vx,Wq        | copy | w=oszapc
66 0F 50 /r | MOVMSKPD Gy=,Ux     | copy |
NP 0F 5A /r | CVTPS2PD Vx=,Wq     | copy |
66 0F 5A /r | CVTPD2PS Vx=,Wx     | copy |
F3 0F 5A /r | CVTSS2SD Vx+,Wd     | copy |
F2 0F 5A /r | CVTSD2SS Vx+,Wq     | copy |
NP 0F 5B /r | CVTDQ2PS Vx=,Wx     | copy |
66 0F 5B /r | CVTPS2DQ Vx=,Wx     | copy |
F3 0F 5B /r | CVTTPS2DQ Vx=,Wx    | copy |
66 0F 6C /r | PUNPCKLQDQ Vx+,Wx   | copy |
66 0F 6D /r | PUNPCKHQDQ Vx+,Wx   | copy |
66 0F 6E /r | MOVD Vx=,Ey         | copy |
66 0F 6F /r | MOVDQA Vx=,Wx       | copy |
F3 0F 6F /r | MOVDQU Vx=,Wx       | copy | ua
66 0F 70 /r | PSHUFD Vx=,Wx,Ib    | copy |
F3 0F 70 /r | PSHUFHW Vx=,Wx,Ib   | copy |
F2 0F 70 /r | PSHUFLW Vx=,Wx,Ib   | copy |
66 0F 7E /r | MOVD Ey=,Vx         | copy |
F3 0F 7E /r | MOVQ Vx=,Wq         | copy |
66 0F 7F /r | MOVDQA Wx=,Vx       | copy |
F3 0F 7F /r | MOVDQU Wx=,Vx       | copy | ua
66 0F C4 /r | PINSRW Vx+,Eyw,Ib   | copy |
66 0F C5 /r | PEXTRW Gy=,Ux,Ib    | copy |
66 0F C6 /r | SHUFPD Vx+,Wx,Ib    | copy |
66 0F D6 /r | MOVQ Wq=,Vx         | copy |
F3 0F D6 /r | MOVQ2DQ Vx=,Nq      | copy |
F2 0F D6 /r | MOVDQ2Q Pq=,Ux      | copy |
66 0F D7 /r | PMOVMSKB Gy=,Ux     | copy |
66 0F E6 /r | CVTTPD2DQ Vx=,Wx    | copy |
F3 0F E6 /r | CVTDQ2PD Vx=,Wq     | copy |
F2 0F E6 /r | CVTPD2DQ Vx=,Wx     | copy |
66 0F E7 /r | MOVNTDQ Mx=,Vx      | copy |
66 0F F7 /r | MASKMOVDQU Vx,Ux    | maskmovdqu | in=rdi
"""

SSE3 = """
F3 0F 12 /r | MOVSLDUP Vx=,Wx     | copy |
F2 0F 12 /r | MOVDDUP Vx=,Wq      | copy |
F3 0F 16 /r | MOVSHDUP Vx=,Wx     | copy |
66 0F 7C /r | HADDPD Vx+,Wx       | copy |
F2 0F 7C /r | HADDPS Vx+,Wx       | copy |
66 0F 7D /r | HSUBPD Vx+,Wx       | copy |
F2 0F 7D /r | HSUBPS Vx+,Wx       | copy |
66 0F D0 /r | ADDSUBPD Vx+,Wx     | copy |
F2 0F D0 /r | ADDSUBPS Vx+,Wx     | copy |
F2 0F F0 /r | LDDQU Vx=,Mx        | copy | ua
"""

SSE4 = """
66 0F 38 10 /r | PBLENDVB Vx+,Wx,XMM0  | copy |
66 0F 38 14 /r | BLENDVPS Vx+,Wx,XMM0  | copy |
66 0F 38 15 /r | BLENDVPD Vx+,Wx,XMM0  | copy |
66 0F 38 17 /r | PTEST Vx,Wx           | copy | w=oszapc
66 0F 38 2A /r | MOVNTDQA Vx=,Mx       | copy |
66 0F 38 41 /r | PHMINPOSUW Vx=,Wx     | copy |
66 0F 3A 08 /r | ROUNDPS Vx=,Wx,Ib     | copy |
66 0F 3A 09 /r | ROUNDPD Vx=,Wx,Ib     | copy |
66 0F 3A 0A /r | ROUNDSS Vx+,Wd,Ib     | copy |
66 0F 3A 0B /r | ROUNDSD Vx+,Wq,Ib     | copy |
66 0F 3A 0C /r | BLENDPS Vx+,Wx,Ib     | copy |
66 0F 3A 0D /r | BLENDPD Vx+,Wx,Ib     | copy |
66 0F 3A 0E /r | PBLENDW Vx+,Wx,Ib     | copy |
66 0F 3A 0F /r | PALIGNR Vx+,Wx,Ib     | copy | f=ssse3
66 0F 3A 14 /r | PEXTRB Eyb=,Vx,Ib     | copy |
66 0F 3A 15 /r | PEXTRW Eyw=,Vx,Ib     | copy |
66 0F 3A 16 /r | PEXTRD Ey=,Vx,Ib      | copy |
66 0F 3A 17 /r | EXTRACTPS Eyd=,Vx,Ib  | copy |
66 0F 3A 20 /r | PINSRB Vx+,Eyb,Ib     | copy |
66 0F 3A 21 /r | INSERTPS Vx+,Wd,Ib    | copy |
66 0F 3A 22 /r | PINSRD Vx+,Ey,Ib      | copy |
66 0F 3A 40 /r | DPPS Vx+,Wx,Ib        | copy |
66 0F 3A 41 /r | DPPD Vx+,Wx,Ib        | copy |
66 0F 3A 42 /r | MPSADBW Vx+,Wx,Ib     | copy |
66 0F 3A 60 /r | PCMPESTRM Vx,Wx,Ib    | copy | ua f=sse4_2 w=oszapc in=rax,rdx
66 0F 3A 61 /r | PCMPESTRI Vx,Wx,Ib    | copy | ua f=sse4_2 w=oszapc in=rax,rdx out=rcx
66 0F 3A 62 /r | PCMPISTRM Vx,Wx,Ib    | copy | ua f=sse4_2 w=oszapc
66 0F 3A 63 /r | PCMPISTRI Vx,Wx,Ib    | copy | ua f=sse4_2 w=oszapc out=rcx
"""

CRYPTO = """
66 0F 38 DB /r | AESIMC Vx=,Wx             | copy | f=aes
66 0F 38 DC /r | AESENC Vx+,Wx             | copy | f=aes
66 0F 38 DD /r | AESENCLAST Vx+,Wx         | copy | f=aes
66 0F 38 DE /r | AESDEC Vx+,Wx             | copy | f=aes
66 0F 38 DF /r | AESDECLAST Vx+,Wx         | copy | f=aes
66 0F 3A DF /r | AESKEYGENASSIST Vx=,Wx,Ib | copy | f=aes
66 0F 3A 44 /r | PCLMULQDQ Vx+,Wx,Ib       | copy | f=pclmulqdq
NP 0F 38 C8 /r | SHA1NEXTE Vx+,Wx          | copy | f=sha_ni
NP 0F 38 C9 /r | SHA1MSG1 Vx+,Wx           | copy | f=sha_ni
NP 0F 38 CA /r | SHA1MSG2 Vx+,Wx           | copy | f=sha_ni
NP 0F 38 CB /r | SHA256RNDS2 Vx+,Wx,XMM0   | copy | f=sha_ni
NP 0F 38 CC /r | SHA256MSG1 Vx+,Wx         | copy | f=sha_ni
NP 0F 38 CD /r | SHA256MSG2 Vx+,Wx         | copy | f=sha_ni
NP 0F 3A CC /r | SHA1RNDS4 Vx+,Wx,Ib       | copy | f=sha_ni
66 0F 38 CF /r | GF2P8MULB Vx+,Wx          | copy | f=gfni
66 0F 3A CE /r | GF2P8AFFINEQB Vx+,Wx,Ib   | copy | f=gfni
66 0F 3A CF /r | GF2P8AFFINEINVQB Vx+,Wx,Ib | copy | f=gfni
"""

_MMX_INTEGER, _XMM_INTEGER = _integer()
GROUPS = (
    ("mmx", "mmx", MMX),
    ("mmx", "mmx", _MMX_INTEGER),
    ("sse", "sse", SSE),
    ("sse", "sse2", SSE2),
    ("sse", "sse2", _XMM_INTEGER),
    ("sse", "sse", _float()),
    ("sse", "pni", SSE3),
    ("sse", "sse4_1", SSE4),
    ("sse", "aes", CRYPTO),
)
