"""Genes by which textbooks of immunology and atlases of blood name its cells, for the demo to hold features
against. Put down from general knowledge, not from the demo's cells or a database: what a feature shares with
them is no echo of the labels it was found by. A gene may stand for several types.
"""

from __future__ import annotations

from pathlib import Path

MARKERS = {
    "T cells": """BCL11B CCR7 CD2 CD247 CD27 CD28 CD3D CD3E CD3G CD4 CD5 CD6 CD7 CD8A CD8B GATA3 IL32 IL7R
        ITK LAT LCK LEF1 LTB MAL SKAP1 TCF7 TNFRSF4 TRAC TRAT1 TRBC1 TRBC2 ZAP70""",
    "cytotoxic T and NK cells": """CCL4 CCL5 CD160 CD247 CD7 CD8A CD8B CST7 CTSW EOMES FCGR3A FGFBP2 GNLY
        GZMA GZMB GZMH GZMK GZMM HOPX IL2RB KLRB1 KLRC1 KLRD1 KLRF1 KLRG1 MATK NCAM1 NCR1 NCR3 NKG7 PRF1
        SPON2 TBX21 XCL1 XCL2""",
    "B cells": """BANK1 BLK BLNK CD19 CD22 CD24 CD37 CD40 CD72 CD74 CD79A CD79B FCER2 FCRLA HLA-DOB HVCN1
        IGHD IGHM IGKC IGLC2 MS4A1 PAX5 SPIB TCL1A TNFRSF13B TNFRSF13C TNFRSF17 VPREB3""",
    "monocytes": """AIF1 CD14 CD33 CD36 CD68 CFD CLEC7A CSF1R CSF3R CST3 CTSD CTSS FCER1G FCGR3A FCN1
        IFI30 IL1B LGALS2 LGALS3 LST1 LYZ MNDA MS4A7 NCF1 NCF2 PSAP S100A12 S100A8 S100A9 SERPINA1 SPI1
        TYMP TYROBP VCAN""",
    "dendritic cells": """BATF3 CD1C CD74 CD83 CD86 CIITA CLEC10A CLEC4C CLEC9A CPVL FCER1A FLT3 HLA-DMA
        HLA-DMB HLA-DPA1 HLA-DPB1 HLA-DQA1 HLA-DQB1 HLA-DRA HLA-DRB1 HLA-DRB5 IL3RA IRF4 IRF7 IRF8 LILRA4
        PLD4 SERPINF1 TCF4 XCR1""",
    "haematopoietic progenitors": """AVP CD34 CDK6 CYTL1 EGFL7 ERG FLT3 GATA2 IGLL1 KIT MEIS1 MSI2 MYB
        PROM1 PRSS57 SOX4 SPINK2 STMN1""",
    "response to interferon": """BST2 IFI44L IFI6 IFIT1 IFIT2 IFIT3 IFITM1 IFITM2 IFITM3 IRF7 ISG15 ISG20
        LY6E MX1 MX2 OAS1 OAS2 OAS3 OASL RSAD2 SP100 SP110 STAT1 XAF1""",
    "dividing cells": """BIRC5 CCNB1 CDK1 CENPF HMGB2 MCM2 MCM3 MCM5 MCM7 MKI67 NUSAP1 PCNA RRM2 STMN1 TK1
        TOP2A TYMS UBE2C""",
}


def write_markers(path: Path) -> None:
    """As GMT: one set a line."""
    lines = ["\t".join([name, "of general knowledge", *genes.split()]) for name, genes in MARKERS.items()]
    path.write_text("\n".join(lines) + "\n")
