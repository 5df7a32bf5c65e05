"""General-purpose instructions (SDM volume 2, one-byte and 0F maps, base architecture).

The notation of a row is explained in instructions.py.
"""

CONDITIONS = (  # mnemonic suffix, flags that it reads, in encoding order
    ("O", "o"),
    ("NO", "o"),
    ("B", "c"),
    ("NB", "c"),
    ("Z", "z"),
    ("NZ", "z"),
    ("BE", "cz"),
    ("NBE", "cz"),
    ("S", "s"),
    ("NS", "s"),
    ("P", "p"),
    ("NP", "p"),
    ("L", "so"),
    ("NL", "so"),
    ("LE", "zso"),
    ("NLE", "zso"),
)

ALU = (  # mnemonic, access mark of its destination, flags; encoding order: opcode 00, 08, .. 38
    ("ADD", "+", "lock w=oszapc"),
    ("OR", "+", "lock w=oszpc u=a"),
    ("ADC", "+", "lock r=c w=oszapc"),
    ("SBB", "+", "lock r=c w=oszapc"),
    ("AND", "+", "lock w=oszpc u=a"),
    ("SUB", "+", "lock w=oszapc"),
    ("XOR", "+", "lock w=oszpc u=a"),
    ("CMP", "", "w=oszapc"),
)

SHIFTS = (  # mnemonic, flags by 1, by other counts; group 2, /0 .. /7 (/6 is SHL again)
    ("ROL", "w=oc", "w=c u=o"),
    ("ROR", "w=oc", "w=c u=o"),
    ("RCL", "r=c w=oc", "r=c w=c u=o"),
    ("RCR", "r=c w=oc", "r=c w=c u=o"),
    ("SHL", "w=oszpc u=a", "w=szpc u=oa"),
    ("SHR", "w=oszpc u=a", "w=szpc u=oa"),
    ("SHL", "w=oszpc u=a", "w=szpc u=oa"),
    ("SAR", "w=oszpc u=a", "w=szpc u=oa"),
)


def _alu() -> str:
    rows = []
    for n, (name, dst, flags) in enumerate(ALU):
        code = n * 8
        nolock = flags.removeprefix("lock ")
        rows.append(f"""
{code + 0:02X} /r | {name} Eb{dst},Gb | copy | {flags}
{code + 1:02X} /r | {name} Ev{dst},Gv | copy | {flags}
{code + 2:02X} /r | {name} Gb{dst},Eb | copy | {nolock}
{code + 3:02X} /r | {name} Gv{dst},Ev | copy | {nolock}
{code + 4:02X}    | {name} AL{dst},Ib | copy | {nolock}
{code + 5:02X}    | {name} rAX{dst},Iz | copy | {nolock}
80 /{n} | {name} Eb{dst},Ib | copy | {flags}
81 /{n} | {name} Ev{dst},Iz | copy | {flags}
82 /{n} | {name} Eb{dst},Ib | copy | {flags} legacy
83 /{n} | {name} Ev{dst},Ib | copy | {flags}
""")
    return "".join(rows)


def _shifts() -> str:
    return "".join(
        f"""
C0 /{n} | {name} Eb+,Ib | copy | {more}
C1 /{n} | {name} Ev+,Ib | copy | {more}
D0 /{n} | {name} Eb+,1  | copy | {one}
D1 /{n} | {name} Ev+,1  | copy | {one}
D2 /{n} | {name} Eb+,CL | copy | {more}
D3 /{n} | {name} Ev+,CL | copy | {more}
"""
        for n, (name, one, more) in enumerate(SHIFTS)
    )


def _conditional() -> str:
    return "".join(
        f"""
{0x70 + n:02X}       | J{cc} Jb          | jcc  | f64 end r={flags}
0F {0x80 + n:02X}    | J{cc} Jz          | jcc  | f64 end r={flags}
0F {0x90 + n:02X} /r | SET{cc} Eb=       | copy | r={flags}
0F {0x40 + n:02X} /r | CMOV{cc} Gv+,Ev   | copy | r={flags} f=cmov
"""
        for n, (cc, flags) in enumerate(CONDITIONS)
    )


ONE_BYTE = """
06       | PUSH ES          | push_sreg   | legacy sp
07       | POP ES=          | pop_sreg    | legacy sp
0E       | PUSH CS          | push_sreg   | legacy sp
16       | PUSH SS          | push_sreg   | legacy sp
17       | POP SS=          | pop_sreg    | legacy sp end
1E       | PUSH DS          | push_sreg   | legacy sp
1F       | POP DS=          | pop_sreg    | legacy sp
27       | DAA AL+          | daa         | legacy r=ac w=szapc u=o
2F       | DAS AL+          | das         | legacy r=ac w=szapc u=o
37       | AAA              | aaa         | legacy r=a w=ac u=oszp in=rax out=rax
3F       | AAS              | aas         | legacy r=a w=ac u=oszp in=rax out=rax
40+r     | INC Zv+          | copy        | legacy w=oszap
48+r     | DEC Zv+          | copy        | legacy w=oszap
50+r     | PUSH Zv          | push        | d64 sp
58+r     | POP Zv=          | pop         | d64 sp
60       | PUSHA            | pusha       | legacy sp in=rax,rcx,rdx,rbx,rbp,rsi,rdi
61       | POPA             | popa        | legacy sp out=rax,rcx,rdx,rbx,rbp,rsi,rdi
62 /r    | BOUND Gv,M2v     | bound       | legacy
63 /r    | ARPL Ew+,Gw      | arpl        | legacy prot w=z
63 /r    | MOVSXD Gv=,Ez    | copy        | 64 hint=movsxd
68       | PUSH Iz          | push_imm    | d64 sp
69 /r    | IMUL Gv=,Ev,Iz   | copy        | w=oc u=szap
6A       | PUSH Ib          | push_imm    | d64 sp
6B /r    | IMUL Gv=,Ev,Ib   | copy        | w=oc u=szap
6C       | INSB Yb=,DX      | ins         | r=d in=rdi,rcx out=rdi,rcx
6D       | INSD Yz=,DX      | ins         | r=d in=rdi,rcx out=rdi,rcx
6E       | OUTSB DX,Xb      | outs        | r=d in=rsi,rcx out=rsi,rcx
6F       | OUTSD DX,Xz      | outs        | r=d in=rsi,rcx out=rsi,rcx
84 /r    | TEST Eb,Gb       | copy        | w=oszpc u=a
85 /r    | TEST Ev,Gv       | copy        | w=oszpc u=a
86 /r    | XCHG Eb+,Gb+     | copy        | lock
87 /r    | XCHG Ev+,Gv+     | copy        | lock
88 /r    | MOV Eb=,Gb       | copy        | hint=mov_rm_r
89 /r    | MOV Ev=,Gv       | copy        | hint=mov_rm_r
8A /r    | MOV Gb=,Eb       | copy        | hint=mov_r_rm
8B /r    | MOV Gv=,Ev       | copy        | hint=mov_r_rm
8C /r    | MOV Evw=,Sw      | mov_r_sreg  |
8D /r    | LEA Gv=,M        | copy        | hint=lea
8E /r    | MOV Sw=,Ew       | mov_sreg_r  | end
8F /0    | POP Ev=          | pop         | d64 sp
90+r     | XCHG Zv+,rAX+    | copy        |
90 NOREX.B    | NOP         | nop         |
F3 90    | PAUSE            | pause       |
98       | CBW rAX+         | copy        |
99       | CWD rDX=,rAX     | copy        |
9A       | CALLF Ap         | call_far    | legacy end sp
9C       | PUSHF            | pushf       | d64 sp r=oszapcdi
9D       | POPF             | popf        | d64 sp end w=oszapcdi
9E       | SAHF             | sahf        | w=szapc in=rax
9F       | LAHF             | lahf        | r=szapc out=rax
A0       | MOV AL=,Ob       | copy        | hint=mov_a_o
A1       | MOV rAX=,Ov      | copy        | hint=mov_a_o
A2       | MOV Ob=,AL       | copy        | hint=mov_o_a
A3       | MOV Ov=,rAX      | copy        | hint=mov_o_a
A4       | MOVSB Yb=,Xb     | movs        | r=d in=rsi,rdi,rcx out=rsi,rdi,rcx
A5       | MOVSV Yv=,Xv     | movs        | r=d in=rsi,rdi,rcx out=rsi,rdi,rcx
A6       | CMPSB Xb,Yb      | cmps        | r=d w=oszapc in=rsi,rdi,rcx out=rsi,rdi,rcx
A7       | CMPSV Xv,Yv      | cmps        | r=d w=oszapc in=rsi,rdi,rcx out=rsi,rdi,rcx
A8       | TEST AL,Ib       | copy        | w=oszpc u=a
A9       | TEST rAX,Iz      | copy        | w=oszpc u=a
AA       | STOSB Yb=,AL     | stos        | r=d in=rdi,rcx out=rdi,rcx
AB       | STOSV Yv=,rAX    | stos        | r=d in=rdi,rcx out=rdi,rcx
AC       | LODSB AL=,Xb     | lods        | r=d in=rsi,rcx out=rsi,rcx
AD       | LODSV rAX=,Xv    | lods        | r=d in=rsi,rcx out=rsi,rcx
AE       | SCASB AL,Yb      | scas        | r=d w=oszapc in=rdi,rcx out=rdi,rcx
AF       | SCASV rAX,Yv     | scas        | r=d w=oszapc in=rdi,rcx out=rdi,rcx
B0+r     | MOV Zb=,Ib       | copy        | hint=mov_r_i
B8+r     | MOV Zv=,Iv       | copy        | hint=mov_r_i
C2       | RET Iuw          | ret         | f64 end sp
C3       | RET              | ret         | f64 end sp
C4 /r    | LES Gv=,Mp       | les         | legacy end
C5 /r    | LDS Gv=,Mp       | lds         | legacy end
C6 /0    | MOV Eb=,Ib       | copy        | hint=mov_rm_i
C7 /0    | MOV Ev=,Iz       | copy        | hint=mov_rm_i
C8       | ENTER Iuw,Iub    | enter       | d64 sp in=rbp out=rbp
C9       | LEAVE            | leave       | d64 in=rbp out=rsp,rbp
CA       | RETF Iuw         | retf        | end sp
CB       | RETF             | retf        | end sp
CC       | INT3             | int3        | end
CD       | INT Iub          | int         | end
CE       | INTO             | into        | legacy end r=o
CF       | IRET             | iret        | end sp w=oszapcdi
D4       | AAM Iub          | aam         | legacy w=szp u=oac in=rax out=rax
D5       | AAD Iub          | aad         | legacy w=szp u=oac in=rax out=rax
D6       | SALC             | salc        | legacy r=c out=rax
D7       | XLAT             | xlat        | in=rbx,rax out=rax
E0       | LOOPNE Jb        | loopne      | f64 end r=z in=rcx out=rcx
E1       | LOOPE Jb         | loope       | f64 end r=z in=rcx out=rcx
E2       | LOOP Jb          | loop        | f64 end in=rcx out=rcx
E3       | JCXZ Jb          | jcxz        | f64 end in=rcx
E4       | IN AL=,Iub       | in          |
E5       | IN eAX=,Iub      | in          |
E6       | OUT Iub,AL       | out         |
E7       | OUT Iub,eAX      | out         |
E8       | CALL Jz          | call_rel    | f64 end sp
E9       | JMP Jz           | jmp_rel     | f64 end
EA       | JMPF Ap          | jmp_far     | legacy end
EB       | JMP Jb           | jmp_rel     | f64 end
EC       | IN AL=,DX        | in          |
ED       | IN eAX=,DX       | in          |
EE       | OUT DX,AL        | out         |
EF       | OUT DX,eAX       | out         |
F1       | INT1             | int1        | end
F4       | HLT              | hlt         | end
F5       | CMC              | cmc         | r=c w=c
F6 /0    | TEST Eb,Ib       | copy        | w=oszpc u=a
F6 /1    | TEST Eb,Ib       | copy        | w=oszpc u=a
F6 /2    | NOT Eb+          | copy        | lock
F6 /3    | NEG Eb+          | copy        | lock w=oszapc
F6 /4    | MUL Eb           | copy        | w=oc u=szap in=rax out=rax
F6 /5    | IMUL Eb          | copy        | w=oc u=szap in=rax out=rax
F6 /6    | DIV Eb           | copy        | u=oszapc in=rax out=rax
F6 /7    | IDIV Eb          | copy        | u=oszapc in=rax out=rax
F7 /0    | TEST Ev,Iz       | copy        | w=oszpc u=a
F7 /1    | TEST Ev,Iz       | copy        | w=oszpc u=a
F7 /2    | NOT Ev+          | copy        | lock
F7 /3    | NEG Ev+          | copy        | lock w=oszapc
F7 /4    | MUL Ev           | copy        | w=oc u=szap in=rax out=rax,rdx
F7 /5    | IMUL Ev          | copy        | w=oc u=szap in=rax out=rax,rdx
F7 /6    | DIV Ev           | copy        | u=oszapc in=rax,rdx out=rax,rdx
F7 /7    | IDIV Ev          | copy        | u=oszapc in=rax,rdx out=rax,rdx
F8       | CLC              | clc         | w=c
F9       | STC              | stc         | w=c
FA       | CLI              | cli         | w=i
FB       | STI              | sti         | w=i end
FC       | CLD              | cld         | w=d
FD       | STD              | std         | w=d
FE /0    | INC Eb+          | copy        | lock w=oszap
FE /1    | DEC Eb+          | copy        | lock w=oszap
FF /0    | INC Ev+          | copy        | lock w=oszap
FF /1    | DEC Ev+          | copy        | lock w=oszap
FF /2    | CALL Ev          | call_ind    | f64 end sp
FF /3    | CALLF Mp         | call_far    | end sp
FF /4    | JMP Ev           | jmp_ind     | f64 end
FF /5    | JMPF Mp          | jmp_far     | end
FF /6    | PUSH Ev          | push        | d64 sp
"""

# BT, BTS, BTR and BTC with a register bit offset reach memory far from their operand: their
# memory forms are handlers, not copies.
TWO_BYTE = """
0F 0B    | UD2              | ud          | end
0F 0D /0 | PREFETCH Mn     | prefetch    | hintop
0F 0D /1 | PREFETCHW Mn    | prefetch    | hintop
0F 0D /2 | PREFETCH Mn     | prefetch    | hintop
0F 0D /3 | PREFETCH Mn     | prefetch    | hintop
0F 0D /4 | PREFETCH Mn     | prefetch    | hintop
0F 0D /5 | PREFETCH Mn     | prefetch    | hintop
0F 0D /6 | PREFETCH Mn     | prefetch    | hintop
0F 0D /7 | PREFETCH Mn     | prefetch    | hintop
0F 0D /r | NOP Rv           | nop         | hintop
0F 18 /r | NOP En           | nop         | hintop
0F 19 /r | NOP En           | nop         | hintop
0F 1A /r | NOP En           | nop         | hintop
0F 1B /r | NOP En           | nop         | hintop
0F 1C /r | NOP En           | nop         | hintop
0F 1D /r | NOP En           | nop         | hintop
0F 1E /r | NOP En           | nop         | hintop
0F 1F /r | NOP En           | nop         | hintop
0F A0    | PUSH FS          | push_sreg   | d64 sp
0F A1    | POP FS=          | pop_sreg    | d64 sp
0F A3 /r | BT Rv,Gv         | copy        | w=c u=osap
0F A3 /r | BT Mv,Gv         | bt          | w=c u=osap
0F A4 /r | SHLD Ev+,Gv,Ib   | copy        | w=szpc u=oa
0F A5 /r | SHLD Ev+,Gv,CL   | copy        | w=szpc u=oa
0F A8    | PUSH GS          | push_sreg   | d64 sp
0F A9    | POP GS=          | pop_sreg    | d64 sp
0F AB /r | BTS Rv+,Gv       | copy        | w=c u=osap
0F AB /r | BTS Mv+,Gv       | bts         | lock w=c u=osap
0F AC /r | SHRD Ev+,Gv,Ib   | copy        | w=szpc u=oa
0F AD /r | SHRD Ev+,Gv,CL   | copy        | w=szpc u=oa
0F AF /r | IMUL Gv+,Ev      | copy        | w=oc u=szap
0F B0 /r | CMPXCHG Eb+,Gb   | copy        | lock w=oszapc in=rax out=rax
0F B1 /r | CMPXCHG Ev+,Gv   | copy        | lock w=oszapc in=rax out=rax
0F B2 /r | LSS Gv=,Mp       | lss         | end
0F B3 /r | BTR Rv+,Gv       | copy        | w=c u=osap
0F B3 /r | BTR Mv+,Gv       | btr         | lock w=c u=osap
0F B4 /r | LFS Gv=,Mp       | lfs         | end
0F B5 /r | LGS Gv=,Mp       | lgs         | end
0F B6 /r | MOVZX Gv=,Eb     | copy        | hint=movzx
0F B7 /r | MOVZX Gv=,Ew     | copy        | hint=movzx
0F B9 /r | UD1 Gv,En        | ud          | end
0F BA /4 | BT Ev,Ib         | copy        | w=c u=osap
0F BA /5 | BTS Ev+,Ib       | copy        | lock w=c u=osap
0F BA /6 | BTR Ev+,Ib       | copy        | lock w=c u=osap
0F BA /7 | BTC Ev+,Ib       | copy        | lock w=c u=osap
0F BB /r | BTC Rv+,Gv       | copy        | w=c u=osap
0F BB /r | BTC Mv+,Gv       | btc         | lock w=c u=osap
0F BC /r | BSF Gv+,Ev       | copy        | w=z u=osapc
0F BD /r | BSR Gv+,Ev       | copy        | w=z u=osapc
F3 0F BC /r | TZCNT Gv=,Ev  | copy        | f=bmi1 w=zc u=osap
F3 0F BD /r | LZCNT Gv=,Ev  | copy        | f=abm w=zc u=osap
F3 0F B8 /r | POPCNT Gv=,Ev | copy        | f=popcnt w=oszapc
0F BE /r | MOVSX Gv=,Eb     | copy        | hint=movsx
0F BF /r | MOVSX Gv=,Ew     | copy        | hint=movsx
0F C0 /r | XADD Eb+,Gb+     | copy        | lock w=oszapc
0F C1 /r | XADD Ev+,Gv+     | copy        | lock w=oszapc
NP 0F C3 /r | MOVNTI My=,Gy | copy        | f=sse2
0F C7 /1 | CMPXCHG8B Mq+    | copy        | f=cx8 lock w=z in=rax,rdx,rbx,rcx out=rax,rdx
0F C7 /1 REX.W | CMPXCHG16B Mdq+ | copy   | f=cx16 64 lock al w=z in=rax,rdx,rbx,rcx out=rax,rdx
NP 0F C7 /6 | RDRAND Rv=    | copy        | f=rdrand w=oszapc
66 0F C7 /6 | RDRAND Rv=    | copy        | f=rdrand w=oszapc
NP 0F C7 /7 | RDSEED Rv=    | copy        | f=rdseed w=oszapc
66 0F C7 /7 | RDSEED Rv=    | copy        | f=rdseed w=oszapc
0F C8+r  | BSWAP Zv+        | copy        |
0F FF /r | UD0 Gv,En        | ud          | end
NP 0F 38 F0 /r | MOVBE Gv=,Mv   | copy    | f=movbe
66 0F 38 F0 /r | MOVBE Gv=,Mv   | copy    | f=movbe
NP 0F 38 F1 /r | MOVBE Mv=,Gv   | copy    | f=movbe
66 0F 38 F1 /r | MOVBE Mv=,Gv   | copy    | f=movbe
F2 0F 38 F0 /r | CRC32 Gy+,Eb   | copy    | f=sse4_2
F2 0F 38 F1 /r | CRC32 Gy+,Ev   | copy    | f=sse4_2
66 0F 38 F6 /r | ADCX Gy+,Ey    | copy    | f=adx r=c w=c
F3 0F 38 F6 /r | ADOX Gy+,Ey    | copy    | f=adx r=o w=o
"""

# VEX-encoded general-purpose instructions. They need no XCR0 bit.
BMI = """
VEX.LZ.0F38 F2 /r     | ANDN Gy=,By,Ey   | copy | f=bmi1 w=oszc u=ap
VEX.LZ.0F38 F3 /1     | BLSR By=,Ey      | copy | f=bmi1 w=oszc u=ap
VEX.LZ.0F38 F3 /2     | BLSMSK By=,Ey    | copy | f=bmi1 w=oszc u=ap
VEX.LZ.0F38 F3 /3     | BLSI By=,Ey      | copy | f=bmi1 w=oszc u=ap
VEX.LZ.0F38 F5 /r     | BZHI Gy=,Ey,By   | copy | f=bmi2 w=oszc u=ap
VEX.LZ.F3.0F38 F5 /r  | PEXT Gy=,By,Ey   | copy | f=bmi2
VEX.LZ.F2.0F38 F5 /r  | PDEP Gy=,By,Ey   | copy | f=bmi2
VEX.LZ.F2.0F38 F6 /r  | MULX Gy=,By=,Ey  | copy | f=bmi2 in=rdx
VEX.LZ.0F38 F7 /r     | BEXTR Gy=,Ey,By  | copy | f=bmi1 w=ozc u=sap
VEX.LZ.66.0F38 F7 /r  | SHLX Gy=,Ey,By   | copy | f=bmi2
VEX.LZ.F3.0F38 F7 /r  | SARX Gy=,Ey,By   | copy | f=bmi2
VEX.LZ.F2.0F38 F7 /r  | SHRX Gy=,Ey,By   | copy | f=bmi2
VEX.LZ.F2.0F3A F0 /r  | RORX Gy=,Ey,Ib   | copy | f=bmi2
"""

GROUPS = (
    ("", "", _alu()),
    ("", "", _shifts()),
    ("", "", _conditional()),
    ("", "", ONE_BYTE),
    ("", "", TWO_BYTE),
    ("", "", BMI),
)
