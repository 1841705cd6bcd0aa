"""Temporary."""
from bench.chip import Chip, find, names
_T = {
 "A100":(1555,312,None,None,19.5,400,40,"Ampere GA100",300),"A100-PCIe-40":(1555,312,None,None,19.5,250,40,"Ampere GA100",None),
 "A100-PCIe-80":(1935,312,None,None,19.5,300,80,"Ampere GA100",None),"A100-SXM-80":(2039,312,None,None,19.5,400,80,"Ampere GA100",300),
 "H100-SXM":(3350,989,1979,None,66.9,700,80,"Hopper GH100",450),"H100-PCIe":(2039,756,1513,None,51.2,350,80,"Hopper GH100",None),
 "GH200":(4000,989,1979,None,66.9,700,96,"Hopper GH100",450),"H200":(4800,989,1979,None,66.9,700,141,"Hopper GH100",450),
 "B200":(8000,2250,4500,9000,75,1000,180,"Blackwell GB100",900),"GB200":(8000,2500,5000,10000,80,1200,186,"Blackwell GB100",900),
 "RTXPRO6000BW":(1792,503,1007,2015,126,600,96,"Blackwell GB202",None),
 "MI250":(3277,362,None,None,45.3,560,128,"CDNA 2",150),"MI300X":(5325,1307,2614,None,163.4,750,192,"CDNA 3",448),
 "MI100":(1229,92.3,None,None,23.1,300,32,"CDNA",None),"MI210":(1638,181,None,None,22.6,300,64,"CDNA 2",None),
 "Gaudi2":(2450,432,865,None,54,600,96,"Gaudi 2",300),"IntelMax1550":(3277,839,None,None,52,600,128,"Ponte Vecchio",None),
 "SN40L":(1638,638,None,None,None,700,64,"SN40L",None),
 "P4":(192,None,None,None,5.5,75,8,"Pascal GP104",None),"P100":(732,None,None,None,9.5,250,16,"Pascal GP100",None),
 "T4":(320,65,None,None,8.1,70,16,"Turing",None),"V100-PCIe":(900,112,None,None,14,250,16,"Volta",None),
 "L4":(300,121,242,None,30.3,72,24,"Ada AD104",None),"A40":(696,149.7,None,None,37.4,300,48,"Ampere GA102",None),
 "L40S":(864,362,733,None,91.6,350,48,"Ada AD102",None),"RTX3070":(448,40.6,None,None,20.3,220,8,"Ampere GA104",None),
 "RTX3080":(760,59.5,None,None,29.8,320,10,"Ampere GA102",None),"RTX3080TI":(912,68,None,None,34.1,350,12,"Ampere GA102",None),
 "RTX3090":(936,71,None,None,35.6,350,24,"Ampere GA102",None),"RTX4070TI":(504,80,None,None,40.1,285,12,"Ada AD104",None),
 "RTX4080":(717,97.5,195,None,48.7,320,16,"Ada AD103",None),"RTX4090":(1008,165,330,None,82.6,450,24,"Ada AD102",None),
 "RTX4000Ada":(360,107,None,None,26.7,130,20,"Ada AD104",None),"RTX5000Ada":(576,261,None,None,65.3,250,32,"Ada AD102",None),
 "RTX6000Ada":(960,364,None,None,91.1,300,48,"Ada AD102",None),"RTXA6000":(768,154.8,None,None,38.7,300,48,"Ampere GA102",None),
 "Apple-m1-max-32-core":(400,10.6,None,None,10.6,60,64,"Apple M1",None),"Apple-m2-ultra-76-core":(800,27.2,None,None,27.2,120,192,"Apple M2",None),
 "Apple-m3-max-40-core":(409,14.2,None,None,14.2,60,64,"Apple M3",None),
}
def resolve(name, memory_gb=None):
    if name in _T:
        bw,bf,f8,f4,f32,p,m,a,l=_T[name]
        fl={k:v*1e12 for k,v in (("bf16",bf),("fp8",f8),("fp4",f4),("fp32",f32)) if v}
        vendor="Apple" if "Apple" in name else "AMD" if name.startswith("MI") else "Intel" if name in("Gaudi2","IntelMax1550") else "SN" if name=="SN40L" else "NVIDIA"
        fig={k:"t" for k in ("driver_names","memory_bytes","memory_bytes_per_s","power_w","flops_per_s")}
        if l: fig["link_bytes_per_s"]="t"
        return Chip(name=name,driver_names=(name,),vendor=vendor,architecture=a,memory_bytes=int(m*2**30),memory_bytes_per_s=bw*1e9,flops_per_s=fl,power_w=p,link_bytes_per_s=l*1e9 if l else None,sources=fig)
    return None
