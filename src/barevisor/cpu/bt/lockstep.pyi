from barevisor.cpu.bt.tier import TranslatorOwner

def enable(owner: TranslatorOwner) -> None:
    """Give a translator that was made for lockstep what it needs."""
