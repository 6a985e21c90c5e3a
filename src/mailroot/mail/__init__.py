"""The nouns of mail as pure values: address, reply, envelope, header, outcome, report. No I/O, no asyncio."""
