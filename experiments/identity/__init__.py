"""What a result rests on: the definitions that a name reaches, the content of data files, code and machine.

Door: fingerprint.fingerprint, definitions.reach, content.differs, provenance.code_version.
"""
