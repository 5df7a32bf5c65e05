"""System instructions (SDM volume 2; volume 3, System Instructions): every one has a handler."""

SYSTEM = """
0F 00 /0      | SLDT Evw=       | sldt       | prot
0F 00 /1      | STR Evw=        | str        | prot
0F 00 /2      | LLDT Ew         | lldt       | prot
0F 00 /3      | LTR Ew          | ltr        | prot
0F 00 /4      | VERR Ew         | verr       | prot w=z
0F 00 /5      | VERW Ew         | verw       | prot w=z
0F 01 /0      | SGDT Ms=        | sgdt       | f64
0F 01 /1      | SIDT Ms=        | sidt       | f64
0F 01 /2      | LGDT Ms         | lgdt       | f64
0F 01 /3      | LIDT Ms         | lidt       | f64
0F 01 /4      | SMSW Evw=       | smsw       |
0F 01 /6      | LMSW Ew         | lmsw       | end
0F 01 /7      | INVLPG Mn      | invlpg     | end
NP 0F 01 C1   | VMCALL          | vmcall     | end
NP 0F 01 C8   | MONITOR         | monitor    | f=monitor in=rax,rcx,rdx
NP 0F 01 C9   | MWAIT           | mwait      | f=monitor end in=rax,rcx
NP 0F 01 CA   | CLAC            | clac       | f=smap
NP 0F 01 CB   | STAC            | stac       | f=smap
NP 0F 01 D0   | XGETBV          | xgetbv     | f=xsave in=rcx out=rax,rdx
NP 0F 01 D1   | XSETBV          | xsetbv     | f=xsave end in=rax,rcx,rdx
0F 01 D9      | VMMCALL         | vmmcall    | end
NP 0F 01 EE   | RDPKRU          | rdpkru     | f=pku in=rcx out=rax,rdx
NP 0F 01 EF   | WRPKRU          | wrpkru     | f=pku end in=rax,rcx,rdx
0F 01 F8      | SWAPGS          | swapgs     | 64
0F 01 F9      | RDTSCP          | rdtscp     | f=rdtscp out=rax,rcx,rdx
0F 02 /r      | LAR Gv=,Ew      | lar        | prot w=z
0F 03 /r      | LSL Gv=,Ew      | lsl        | prot w=z
0F 05         | SYSCALL         | syscall    | f=syscall end r=oszapcdi w=oszapcdi out=rcx,r11
0F 06         | CLTS            | clts       | end
0F 07         | SYSRET          | sysret     | f=syscall end w=oszapcdi in=rcx,r11
0F 08         | INVD            | invd       |
0F 09         | WBINVD          | wbinvd     |
0F 20 /r      | MOV Ry=,Cy      | mov_r_cr   | nomod n64 u=oszapc
0F 21 /r      | MOV Ry=,Dy      | mov_r_dr   | nomod n64 u=oszapc
0F 22 /r      | MOV Cy=,Ry      | mov_cr_r   | nomod n64 end u=oszapc
0F 23 /r      | MOV Dy=,Ry      | mov_dr_r   | nomod n64 end u=oszapc
0F 30         | WRMSR           | wrmsr      | f=msr end in=rax,rcx,rdx
0F 31         | RDTSC           | rdtsc      | f=tsc out=rax,rdx
0F 32         | RDMSR           | rdmsr      | f=msr in=rcx out=rax,rdx
0F 33         | RDPMC           | rdpmc      | in=rcx out=rax,rdx
0F 34         | SYSENTER        | sysenter   | f=sep end w=i out=rsp
0F 35         | SYSEXIT         | sysexit    | f=sep end in=rcx,rdx out=rsp
0F A2         | CPUID           | cpuid      | in=rax,rcx out=rax,rbx,rcx,rdx
0F AA         | RSM             | rsm        | end w=oszapcdi
66 0F 38 82 /r | INVPCID Gy,Mdq | invpcid    | f=invpcid n64 end
"""

# Processor state, fences and cache lines (group 15 and the memory half of group 9). The XSAVE
# area's size depends on XCR0, so its memory size is 0: the handler knows.
STATE = """
NP 0F AE /0   | FXSAVE Mfx=     | fxsave     | f=fxsr
NP 0F AE /1   | FXRSTOR Mfx     | fxrstor    | f=fxsr
NP 0F AE /2   | LDMXCSR Md      | ldmxcsr    | f=sse unit=sse
NP 0F AE /3   | STMXCSR Md=     | stmxcsr    | f=sse unit=sse
NP 0F AE /4   | XSAVE Mxs+      | xsave      | f=xsave in=rax,rdx
NP 0F AE /5   | XRSTOR Mxs     | xrstor     | f=xsave in=rax,rdx
NP 0F AE /6   | XSAVEOPT Mxs+   | xsaveopt   | f=xsaveopt in=rax,rdx
NP 0F AE /7   | CLFLUSH Mb     | clflush    | f=clflush
66 0F AE /6   | CLWB Mb        | clflush    | f=clwb
66 0F AE /7   | CLFLUSHOPT Mb  | clflush    | f=clflushopt
NP 0F AE E8+i | LFENCE          | copy       | f=sse2
NP 0F AE F0+i | MFENCE          | copy       | f=sse2
NP 0F AE F8+i | SFENCE          | copy       | f=sse
F3 0F AE /0   | RDFSBASE Ry=    | rdfsbase   | f=fsgsbase 64
F3 0F AE /1   | RDGSBASE Ry=    | rdgsbase   | f=fsgsbase 64
F3 0F AE /2   | WRFSBASE Ry     | wrfsbase   | f=fsgsbase 64
F3 0F AE /3   | WRGSBASE Ry     | wrgsbase   | f=fsgsbase 64
NP 0F C7 /3   | XRSTORS Mxs    | xrstors    | f=xsaves in=rax,rdx
NP 0F C7 /4   | XSAVEC Mxs=     | xsavec     | f=xsavec in=rax,rdx
NP 0F C7 /5   | XSAVES Mxs=     | xsaves     | f=xsaves in=rax,rdx
F3 0F C7 /7   | RDPID Ry=       | rdpid      | f=rdpid n64
"""

GROUPS = (("", "", SYSTEM), ("", "", STATE))
