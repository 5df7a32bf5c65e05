"""x87 instructions (SDM volume 2, escape opcodes D8 to DF).

C0..C3 of the status word are not in the flag columns: only FCOMI and its kind write RFLAGS.
"""

ARITHMETIC = ("FADD", "FMUL", "FCOM", "FCOMP", "FSUB", "FSUBR", "FDIV", "FDIVR")


def _arithmetic() -> str:
    rows = []
    for n, name in enumerate(ARITHMETIC):
        integer = "FI" + name[1:]
        rows.append(f"""
D8 /{n} | {name} Md | copy |
DC /{n} | {name} Mq | copy |
DA /{n} | {integer} Md | copy |
DE /{n} | {integer} Mw | copy |
D8 {0xC0 + 8 * n:02X}+i | {name} ST0,STi | copy |
""")
    return "".join(rows)


REST = """
D9 /0    | FLD Md        | copy    |
D9 /2    | FST Md=       | copy    |
D9 /3    | FSTP Md=      | copy    |
D9 /4    | FLDENV Me     | fldenv  |
D9 /5    | FLDCW Mw      | fldcw   |
D9 /6    | FNSTENV Me=   | fnstenv |
D9 /7    | FNSTCW Mw=    | fnstcw  |
D9 C0+i  | FLD STi       | copy    |
D9 C8+i  | FXCH STi      | copy    |
D9 D0    | FNOP          | copy    |
D9 D8+i  | FSTPNCE STi   | copy    |
D9 E0    | FCHS          | copy    |
D9 E1    | FABS          | copy    |
D9 E4    | FTST          | copy    |
D9 E5    | FXAM          | copy    |
D9 E8    | FLD1          | copy    |
D9 E9    | FLDL2T        | copy    |
D9 EA    | FLDL2E        | copy    |
D9 EB    | FLDPI         | copy    |
D9 EC    | FLDLG2        | copy    |
D9 ED    | FLDLN2        | copy    |
D9 EE    | FLDZ          | copy    |
D9 F0    | F2XM1         | copy    |
D9 F1    | FYL2X         | copy    |
D9 F2    | FPTAN         | copy    |
D9 F3    | FPATAN        | copy    |
D9 F4    | FXTRACT       | copy    |
D9 F5    | FPREM1        | copy    |
D9 F6    | FDECSTP       | copy    |
D9 F7    | FINCSTP       | copy    |
D9 F8    | FPREM         | copy    |
D9 F9    | FYL2XP1       | copy    |
D9 FA    | FSQRT         | copy    |
D9 FB    | FSINCOS       | copy    |
D9 FC    | FRNDINT       | copy    |
D9 FD    | FSCALE        | copy    |
D9 FE    | FSIN          | copy    |
D9 FF    | FCOS          | copy    |
DA C0+i  | FCMOVB ST0,STi   | copy | r=c f=cmov
DA C8+i  | FCMOVE ST0,STi   | copy | r=z f=cmov
DA D0+i  | FCMOVBE ST0,STi  | copy | r=cz f=cmov
DA D8+i  | FCMOVU ST0,STi   | copy | r=p f=cmov
DA E9    | FUCOMPP          | copy |
DB /0    | FILD Md       | copy    |
DB /1    | FISTTP Md=    | copy    | f=pni
DB /2    | FIST Md=      | copy    |
DB /3    | FISTP Md=     | copy    |
DB /5    | FLD Mt        | copy    |
DB /7    | FSTP Mt=      | copy    |
DB C0+i  | FCMOVNB ST0,STi  | copy | r=c f=cmov
DB C8+i  | FCMOVNE ST0,STi  | copy | r=z f=cmov
DB D0+i  | FCMOVNBE ST0,STi | copy | r=cz f=cmov
DB D8+i  | FCMOVNU ST0,STi  | copy | r=p f=cmov
DB E0    | FNENI         | nop     |
DB E1    | FNDISI        | nop     |
DB E2    | FNCLEX        | fnclex  |
DB E3    | FNINIT        | fninit  |
DB E4    | FNSETPM       | nop     |
DB E8+i  | FUCOMI ST0,STi   | copy | w=oszapc f=cmov
DB F0+i  | FCOMI ST0,STi    | copy | w=oszapc f=cmov
DC C0+i  | FADD STi,ST0  | copy    |
DC C8+i  | FMUL STi,ST0  | copy    |
DC D0+i  | FCOM ST0,STi  | copy    |
DC D8+i  | FCOMP ST0,STi | copy    |
DC E0+i  | FSUBR STi,ST0 | copy    |
DC E8+i  | FSUB STi,ST0  | copy    |
DC F0+i  | FDIVR STi,ST0 | copy    |
DC F8+i  | FDIV STi,ST0  | copy    |
DD /0    | FLD Mq        | copy    |
DD /1    | FISTTP Mq=    | copy    | f=pni
DD /2    | FST Mq=       | copy    |
DD /3    | FSTP Mq=      | copy    |
DD /4    | FRSTOR Mfs    | frstor  |
DD /6    | FNSAVE Mfs=   | fnsave  |
DD /7    | FNSTSW Mw=    | fnstsw  |
DD C0+i  | FFREE STi     | copy    |
DD C8+i  | FXCH STi      | copy    |
DD D0+i  | FST STi       | copy    |
DD D8+i  | FSTP STi      | copy    |
DD E0+i  | FUCOM ST0,STi | copy    |
DD E8+i  | FUCOMP ST0,STi | copy   |
DE C0+i  | FADDP STi,ST0 | copy    |
DE C8+i  | FMULP STi,ST0 | copy    |
DE D0+i  | FCOMP ST0,STi | copy    |
DE D9    | FCOMPP        | copy    |
DE E0+i  | FSUBRP STi,ST0 | copy   |
DE E8+i  | FSUBP STi,ST0 | copy    |
DE F0+i  | FDIVRP STi,ST0 | copy   |
DE F8+i  | FDIVP STi,ST0 | copy    |
DF /0    | FILD Mw       | copy    |
DF /1    | FISTTP Mw=    | copy    | f=pni
DF /2    | FIST Mw=      | copy    |
DF /3    | FISTP Mw=     | copy    |
DF /4    | FBLD Mt       | copy    |
DF /5    | FILD Mq       | copy    |
DF /6    | FBSTP Mt=     | copy    |
DF /7    | FISTP Mq=     | copy    |
DF C0+i  | FFREEP STi    | copy    |
DF C8+i  | FXCH STi      | copy    |
DF D0+i  | FSTP STi      | copy    |
DF D8+i  | FSTP STi      | copy    |
DF E0    | FNSTSW AX=    | fnstsw  |
DF E8+i  | FUCOMIP ST0,STi | copy  | w=oszapc f=cmov
DF F0+i  | FCOMIP ST0,STi  | copy  | w=oszapc f=cmov
9B       | FWAIT         | fwait   | unit=
"""

GROUPS = (("x87", "fpu", _arithmetic()), ("x87", "fpu", REST))
