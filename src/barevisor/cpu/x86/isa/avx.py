"""AVX, AVX2, F16C, FMA and the VEX forms of AES and PCLMULQDQ (SDM volume 2).

Packed integer instructions are AVX with 128 bits and AVX2 with 256: two rows each.
"""

from barevisor.cpu.x86.isa import vector

WIDTHS = (("128", "avx"), ("256", "avx2"))


def _integer() -> str:
    rows = []
    for width, feature in WIDTHS:
        f = f"copy | f={feature}"
        for code, name, _ in vector.split(vector.INTEGER):
            source = "Wdq" if name in vector.SHIFTS else "Wx"
            rows.append(f"VEX.{width}.66.0F {code} /r | V{name} Vx=,Hx,{source} | {f}")
        for code, name, *_ in vector.split(vector.SSSE3) + vector.split(vector.SSE4):
            rows.append(f"VEX.{width}.66.0F38 {code} /r | V{name} Vx=,Hx,Wx | {f}")
        for code, name in vector.split(vector.SSSE3_UNARY):
            rows.append(f"VEX.{width}.66.0F38 {code} /r | V{name} Vx=,Wx | {f}")
        for code, digit, name, _ in vector.split(vector.SHIFT_GROUPS):
            rows.append(f"VEX.{width}.66.0F {code} /{digit} | V{name} Hx=,Ux,Ib | {f}")
        for code, name, size in vector.split(vector.EXTEND):
            rows.append(f"VEX.{width}.66.0F38 {code} /r | V{name} Vx=,W{size} | {f}")
        for line in INTEGER.split("\n"):
            if line:
                rows.append(f"VEX.{width}.{line}{feature}")
    return "\n".join(rows)


def _float() -> str:
    rows = []
    for table, unary in ((vector.FLOAT, False), (vector.FLOAT_UNARY, True)):
        for code, name, *forms in vector.split(table):
            for form in forms:
                prefix, source, _ = vector.FORMS[form]
                operands = "Vx=," if unary and form[0] == "P" else "Vx=,Hx,"
                rows.append(
                    f"VEX.{prefix}.0F {code} /r | V{name}{form} {operands}{source} | copy |"
                )
    for form, (prefix, source, _) in vector.FORMS.items():
        rows.append(f"VEX.{prefix}.0F C2 /r | VCMP{form} Vx=,Hx,{source},Ib | copy |")
    return "\n".join(rows)


def _fma() -> str:
    rows = []
    for high, order in zip("9AB", vector.FMA_ORDERS, strict=True):
        for low, name, kind in vector.split(vector.FMA):
            for w, precision in enumerate("SD"):
                source = "Wx" if kind == "P" else ("Wd", "Wq")[w]
                rows.append(
                    f"VEX.66.0F38.W{w} {high}{low} /r"
                    f" | V{name}{order}{kind}{precision} Vx+,Hx,{source} | copy |"
                )
    return "\n".join(rows)


MOVES = """
VEX.0F 10 /r        | VMOVUPS Vx=,Wx          | copy |
VEX.0F 11 /r        | VMOVUPS Wx=,Vx          | copy |
VEX.66.0F 10 /r     | VMOVUPD Vx=,Wx          | copy |
VEX.66.0F 11 /r     | VMOVUPD Wx=,Vx          | copy |
VEX.F3.0F 10 /r     | VMOVSS Vx=,Md           | copy |
VEX.F3.0F 10 /r     | VMOVSS Vx=,Hx,Ud        | copy |
VEX.F3.0F 11 /r     | VMOVSS Md=,Vx           | copy |
VEX.F3.0F 11 /r     | VMOVSS Ud=,Hx,Vx        | copy |
VEX.F2.0F 10 /r     | VMOVSD Vx=,Mq           | copy |
VEX.F2.0F 10 /r     | VMOVSD Vx=,Hx,Uq        | copy |
VEX.F2.0F 11 /r     | VMOVSD Mq=,Vx           | copy |
VEX.F2.0F 11 /r     | VMOVSD Uq=,Hx,Vx        | copy |
VEX.128.0F 12 /r    | VMOVLPS Vx=,Hx,Mq       | copy |
VEX.128.0F 12 /r    | VMOVHLPS Vx=,Hx,Ux      | copy |
VEX.128.66.0F 12 /r | VMOVLPD Vx=,Hx,Mq       | copy |
VEX.F3.0F 12 /r     | VMOVSLDUP Vx=,Wx        | copy |
VEX.128.F2.0F 12 /r | VMOVDDUP Vx=,Wq         | copy |
VEX.256.F2.0F 12 /r | VMOVDDUP Vx=,Wx         | copy |
VEX.128.0F 13 /r    | VMOVLPS Mq=,Vx          | copy |
VEX.128.66.0F 13 /r | VMOVLPD Mq=,Vx          | copy |
VEX.128.0F 16 /r    | VMOVHPS Vx=,Hx,Mq       | copy |
VEX.128.0F 16 /r    | VMOVLHPS Vx=,Hx,Ux      | copy |
VEX.128.66.0F 16 /r | VMOVHPD Vx=,Hx,Mq       | copy |
VEX.F3.0F 16 /r     | VMOVSHDUP Vx=,Wx        | copy |
VEX.128.0F 17 /r    | VMOVHPS Mq=,Vx          | copy |
VEX.128.66.0F 17 /r | VMOVHPD Mq=,Vx          | copy |
VEX.0F 28 /r        | VMOVAPS Vx=,Wx          | copy | al
VEX.0F 29 /r        | VMOVAPS Wx=,Vx          | copy | al
VEX.66.0F 28 /r     | VMOVAPD Vx=,Wx          | copy | al
VEX.66.0F 29 /r     | VMOVAPD Wx=,Vx          | copy | al
VEX.0F 2B /r        | VMOVNTPS Mx=,Vx         | copy | al
VEX.66.0F 2B /r     | VMOVNTPD Mx=,Vx         | copy | al
VEX.128.66.0F 6E /r | VMOVD Vx=,Ey            | copy |
VEX.128.66.0F 7E /r | VMOVD Ey=,Vx            | copy |
VEX.128.F3.0F 7E /r | VMOVQ Vx=,Wq            | copy |
VEX.128.66.0F D6 /r | VMOVQ Wq=,Vx            | copy |
VEX.66.0F 6F /r     | VMOVDQA Vx=,Wx          | copy | al
VEX.66.0F 7F /r     | VMOVDQA Wx=,Vx          | copy | al
VEX.F3.0F 6F /r     | VMOVDQU Vx=,Wx          | copy |
VEX.F3.0F 7F /r     | VMOVDQU Wx=,Vx          | copy |
VEX.66.0F E7 /r     | VMOVNTDQ Mx=,Vx         | copy | al
VEX.F2.0F F0 /r     | VLDDQU Vx=,Mx           | copy |
VEX.128.66.0F F7 /r | VMASKMOVDQU Vx,Ux       | maskmovdqu | in=rdi
VEX.128.0F 77       | VZEROUPPER              | vzeroupper |
VEX.256.0F 77       | VZEROALL                | vzeroall |
VEX.128.0F AE /2    | VLDMXCSR Md             | ldmxcsr |
VEX.128.0F AE /3    | VSTMXCSR Md=            | stmxcsr |
VEX.0F 50 /r        | VMOVMSKPS Gy=,Ux        | copy |
VEX.66.0F 50 /r     | VMOVMSKPD Gy=,Ux        | copy |
"""

CONVERSIONS = """
VEX.F3.0F 2A /r     | VCVTSI2SS Vx=,Hx,Ey     | copy |
VEX.F2.0F 2A /r     | VCVTSI2SD Vx=,Hx,Ey     | copy |
VEX.F3.0F 2C /r     | VCVTTSS2SI Gy=,Wd       | copy |
VEX.F2.0F 2C /r     | VCVTTSD2SI Gy=,Wq       | copy |
VEX.F3.0F 2D /r     | VCVTSS2SI Gy=,Wd        | copy |
VEX.F2.0F 2D /r     | VCVTSD2SI Gy=,Wq        | copy |
VEX.0F 2E /r        | VUCOMISS Vx,Wd          | copy | w=oszapc
VEX.66.0F 2E /r     | VUCOMISD Vx,Wq          | copy | w=oszapc
VEX.0F 2F /r        | VCOMISS Vx,Wd           | copy | w=oszapc
VEX.66.0F 2F /r     | VCOMISD Vx,Wq           | copy | w=oszapc
VEX.0F 5A /r        | VCVTPS2PD Vx=,Wh        | copy |
VEX.66.0F 5A /r     | VCVTPD2PS Vx=,Wx        | copy |
VEX.F3.0F 5A /r     | VCVTSS2SD Vx=,Hx,Wd     | copy |
VEX.F2.0F 5A /r     | VCVTSD2SS Vx=,Hx,Wq     | copy |
VEX.0F 5B /r        | VCVTDQ2PS Vx=,Wx        | copy |
VEX.66.0F 5B /r     | VCVTPS2DQ Vx=,Wx        | copy |
VEX.F3.0F 5B /r     | VCVTTPS2DQ Vx=,Wx       | copy |
VEX.66.0F E6 /r     | VCVTTPD2DQ Vx=,Wx       | copy |
VEX.F3.0F E6 /r     | VCVTDQ2PD Vx=,Wh        | copy |
VEX.F2.0F E6 /r     | VCVTPD2DQ Vx=,Wx        | copy |
VEX.66.0F38.W0 13 /r | VCVTPH2PS Vx=,Wh       | copy | f=f16c
VEX.66.0F3A.W0 1D /r | VCVTPS2PH Wh=,Vx,Ib    | copy | f=f16c
"""

FLOATS = """
VEX.66.0F 7C /r     | VHADDPD Vx=,Hx,Wx       | copy |
VEX.F2.0F 7C /r     | VHADDPS Vx=,Hx,Wx       | copy |
VEX.66.0F 7D /r     | VHSUBPD Vx=,Hx,Wx       | copy |
VEX.F2.0F 7D /r     | VHSUBPS Vx=,Hx,Wx       | copy |
VEX.0F C6 /r        | VSHUFPS Vx=,Hx,Wx,Ib    | copy |
VEX.66.0F C6 /r     | VSHUFPD Vx=,Hx,Wx,Ib    | copy |
VEX.66.0F D0 /r     | VADDSUBPD Vx=,Hx,Wx     | copy |
VEX.F2.0F D0 /r     | VADDSUBPS Vx=,Hx,Wx     | copy |
VEX.66.0F38.W0 0C /r | VPERMILPS Vx=,Hx,Wx    | copy |
VEX.66.0F38.W0 0D /r | VPERMILPD Vx=,Hx,Wx    | copy |
VEX.66.0F38.W0 0E /r | VTESTPS Vx,Wx          | copy | w=oszapc
VEX.66.0F38.W0 0F /r | VTESTPD Vx,Wx          | copy | w=oszapc
VEX.66.0F38 17 /r    | VPTEST Vx,Wx           | copy | w=oszapc
VEX.66.0F38.W0 18 /r | VBROADCASTSS Vx=,Md    | copy |
VEX.66.0F38.W0 18 /r | VBROADCASTSS Vx=,Ud    | copy | f=avx2
VEX.256.66.0F38.W0 19 /r | VBROADCASTSD Vx=,Mq | copy |
VEX.256.66.0F38.W0 19 /r | VBROADCASTSD Vx=,Uq | copy | f=avx2
VEX.256.66.0F38.W0 1A /r | VBROADCASTF128 Vx=,Mdq | copy |
VEX.66.0F38.W0 2C /r | VMASKMOVPS Vx=,Hx,Mx   | vmaskmov |
VEX.66.0F38.W0 2D /r | VMASKMOVPD Vx=,Hx,Mx   | vmaskmov |
VEX.66.0F38.W0 2E /r | VMASKMOVPS Mx=,Hx,Vx   | vmaskmov |
VEX.66.0F38.W0 2F /r | VMASKMOVPD Mx=,Hx,Vx   | vmaskmov |
VEX.66.0F3A.W0 04 /r | VPERMILPS Vx=,Wx,Ib    | copy |
VEX.66.0F3A.W0 05 /r | VPERMILPD Vx=,Wx,Ib    | copy |
VEX.256.66.0F3A.W0 06 /r | VPERM2F128 Vx=,Hx,Wx,Ib | copy |
VEX.66.0F3A 08 /r    | VROUNDPS Vx=,Wx,Ib     | copy |
VEX.66.0F3A 09 /r    | VROUNDPD Vx=,Wx,Ib     | copy |
VEX.66.0F3A 0A /r    | VROUNDSS Vx=,Hx,Wd,Ib  | copy |
VEX.66.0F3A 0B /r    | VROUNDSD Vx=,Hx,Wq,Ib  | copy |
VEX.66.0F3A 0C /r    | VBLENDPS Vx=,Hx,Wx,Ib  | copy |
VEX.66.0F3A 0D /r    | VBLENDPD Vx=,Hx,Wx,Ib  | copy |
VEX.256.66.0F3A.W0 18 /r | VINSERTF128 Vx=,Hx,Wdq,Ib | copy |
VEX.256.66.0F3A.W0 19 /r | VEXTRACTF128 Wdq=,Vx,Ib | copy |
VEX.128.66.0F3A 17 /r | VEXTRACTPS Eyd=,Vx,Ib | copy |
VEX.128.66.0F3A 21 /r | VINSERTPS Vx=,Hx,Wd,Ib | copy |
VEX.66.0F3A 40 /r    | VDPPS Vx=,Hx,Wx,Ib     | copy |
VEX.128.66.0F3A 41 /r | VDPPD Vx=,Hx,Wx,Ib    | copy |
VEX.66.0F3A.W0 4A /r | VBLENDVPS Vx=,Hx,Wx,Lx | copy |
VEX.66.0F3A.W0 4B /r | VBLENDVPD Vx=,Hx,Wx,Lx | copy |
"""

# Both widths; the feature is the width's.
INTEGER = """
66.0F 6C /r         | VPUNPCKLQDQ Vx=,Hx,Wx   | copy | f=
66.0F 6D /r         | VPUNPCKHQDQ Vx=,Hx,Wx   | copy | f=
66.0F 70 /r         | VPSHUFD Vx=,Wx,Ib       | copy | f=
F3.0F 70 /r         | VPSHUFHW Vx=,Wx,Ib      | copy | f=
F2.0F 70 /r         | VPSHUFLW Vx=,Wx,Ib      | copy | f=
66.0F D7 /r         | VPMOVMSKB Gy=,Ux        | copy | f=
66.0F38 2A /r       | VMOVNTDQA Vx=,Mx        | copy | al f=
66.0F3A 0E /r       | VPBLENDW Vx=,Hx,Wx,Ib   | copy | f=
66.0F3A 0F /r       | VPALIGNR Vx=,Hx,Wx,Ib   | copy | f=
66.0F3A 42 /r       | VMPSADBW Vx=,Hx,Wx,Ib   | copy | f=
66.0F3A.W0 4C /r    | VPBLENDVB Vx=,Hx,Wx,Lx  | copy | f=
"""

INTEGER128 = """
VEX.128.66.0F C4 /r   | VPINSRW Vx=,Hx,Eyw,Ib  | copy |
VEX.128.66.0F C5 /r   | VPEXTRW Gy=,Ux,Ib      | copy |
VEX.128.66.0F38 41 /r | VPHMINPOSUW Vx=,Wx     | copy |
VEX.128.66.0F3A 14 /r | VPEXTRB Eyb=,Vx,Ib     | copy |
VEX.128.66.0F3A 15 /r | VPEXTRW Eyw=,Vx,Ib     | copy |
VEX.128.66.0F3A 16 /r | VPEXTRD Ey=,Vx,Ib      | copy |
VEX.128.66.0F3A 20 /r | VPINSRB Vx=,Hx,Eyb,Ib  | copy |
VEX.128.66.0F3A 22 /r | VPINSRD Vx=,Hx,Ey,Ib   | copy |
VEX.128.66.0F3A 60 /r | VPCMPESTRM Vx,Wx,Ib    | copy | w=oszapc in=rax,rdx
VEX.128.66.0F3A 61 /r | VPCMPESTRI Vx,Wx,Ib    | copy | w=oszapc in=rax,rdx out=rcx
VEX.128.66.0F3A 62 /r | VPCMPISTRM Vx,Wx,Ib    | copy | w=oszapc
VEX.128.66.0F3A 63 /r | VPCMPISTRI Vx,Wx,Ib    | copy | w=oszapc out=rcx
VEX.128.66.0F38 DB /r | VAESIMC Vx=,Wx         | copy | f=aes
VEX.128.66.0F3A DF /r | VAESKEYGENASSIST Vx=,Wx,Ib | copy | f=aes
VEX.128.66.0F38 DC /r | VAESENC Vx=,Hx,Wx      | copy | f=aes
VEX.128.66.0F38 DD /r | VAESENCLAST Vx=,Hx,Wx  | copy | f=aes
VEX.128.66.0F38 DE /r | VAESDEC Vx=,Hx,Wx      | copy | f=aes
VEX.128.66.0F38 DF /r | VAESDECLAST Vx=,Hx,Wx  | copy | f=aes
VEX.128.66.0F3A 44 /r | VPCLMULQDQ Vx=,Hx,Wx,Ib | copy | f=pclmulqdq
VEX.256.66.0F38 DC /r | VAESENC Vx=,Hx,Wx      | copy | f=vaes
VEX.256.66.0F38 DD /r | VAESENCLAST Vx=,Hx,Wx  | copy | f=vaes
VEX.256.66.0F38 DE /r | VAESDEC Vx=,Hx,Wx      | copy | f=vaes
VEX.256.66.0F38 DF /r | VAESDECLAST Vx=,Hx,Wx  | copy | f=vaes
VEX.256.66.0F3A 44 /r | VPCLMULQDQ Vx=,Hx,Wx,Ib | copy | f=vpclmulqdq
VEX.66.0F38.W0 CF /r  | VGF2P8MULB Vx=,Hx,Wx   | copy | f=gfni
VEX.66.0F3A.W1 CE /r  | VGF2P8AFFINEQB Vx=,Hx,Wx,Ib | copy | f=gfni
VEX.66.0F3A.W1 CF /r  | VGF2P8AFFINEINVQB Vx=,Hx,Wx,Ib | copy | f=gfni
"""

# A masked-out element is not accessed and cannot fault: VMASKMOV, VPMASKMOV and the gathers have
# handlers. Gathers change their mask (vvvv) as they go.
AVX2 = """
VEX.256.66.0F38.W0 16 /r | VPERMPS Vx=,Hx,Wx       | copy |
VEX.256.66.0F38.W0 36 /r | VPERMD Vx=,Hx,Wx        | copy |
VEX.66.0F38.W0 45 /r     | VPSRLVD Vx=,Hx,Wx       | copy |
VEX.66.0F38.W1 45 /r     | VPSRLVQ Vx=,Hx,Wx       | copy |
VEX.66.0F38.W0 46 /r     | VPSRAVD Vx=,Hx,Wx       | copy |
VEX.66.0F38.W0 47 /r     | VPSLLVD Vx=,Hx,Wx       | copy |
VEX.66.0F38.W1 47 /r     | VPSLLVQ Vx=,Hx,Wx       | copy |
VEX.66.0F38.W0 58 /r     | VPBROADCASTD Vx=,Wd     | copy |
VEX.66.0F38.W0 59 /r     | VPBROADCASTQ Vx=,Wq     | copy |
VEX.256.66.0F38.W0 5A /r | VBROADCASTI128 Vx=,Mdq  | copy |
VEX.66.0F38.W0 78 /r     | VPBROADCASTB Vx=,Wb     | copy |
VEX.66.0F38.W0 79 /r     | VPBROADCASTW Vx=,Ww     | copy |
VEX.66.0F38.W0 8C /r     | VPMASKMOVD Vx=,Hx,Mx    | vmaskmov |
VEX.66.0F38.W1 8C /r     | VPMASKMOVQ Vx=,Hx,Mx    | vmaskmov |
VEX.66.0F38.W0 8E /r     | VPMASKMOVD Mx=,Hx,Vx    | vmaskmov |
VEX.66.0F38.W1 8E /r     | VPMASKMOVQ Mx=,Hx,Vx    | vmaskmov |
VEX.66.0F38.W0 90 /r     | VPGATHERDD Vx+,Mxs,Hx+  | gather | vsib
VEX.66.0F38.W1 90 /r     | VPGATHERDQ Vx+,Mxs,Hx+  | gather | vsib
VEX.66.0F38.W0 91 /r     | VPGATHERQD Vx+,Mxs,Hx+  | gather | vsib
VEX.66.0F38.W1 91 /r     | VPGATHERQQ Vx+,Mxs,Hx+  | gather | vsib
VEX.66.0F38.W0 92 /r     | VGATHERDPS Vx+,Mxs,Hx+  | gather | vsib
VEX.66.0F38.W1 92 /r     | VGATHERDPD Vx+,Mxs,Hx+  | gather | vsib
VEX.66.0F38.W0 93 /r     | VGATHERQPS Vx+,Mxs,Hx+  | gather | vsib
VEX.66.0F38.W1 93 /r     | VGATHERQPD Vx+,Mxs,Hx+  | gather | vsib
VEX.256.66.0F3A.W1 00 /r | VPERMQ Vx=,Wx,Ib        | copy |
VEX.256.66.0F3A.W1 01 /r | VPERMPD Vx=,Wx,Ib       | copy |
VEX.66.0F3A.W0 02 /r     | VPBLENDD Vx=,Hx,Wx,Ib   | copy |
VEX.256.66.0F3A.W0 38 /r | VINSERTI128 Vx=,Hx,Wdq,Ib | copy |
VEX.256.66.0F3A.W0 39 /r | VEXTRACTI128 Wdq=,Vx,Ib | copy |
VEX.256.66.0F3A.W0 46 /r | VPERM2I128 Vx=,Hx,Wx,Ib | copy |
"""

GROUPS = (
    ("avx", "avx", MOVES),
    ("avx", "avx", CONVERSIONS),
    ("avx", "avx", FLOATS),
    ("avx", "avx", _float()),
    ("avx", "avx", _integer()),
    ("avx", "avx", INTEGER128),
    ("avx", "avx2", AVX2),
    ("avx", "fma", _fma()),
)
