"""What a result rests on: the definitions that a name reaches, the content of data files, code and machine.

`definitions` finds what a name stands for, `dependencies` all that it reaches; `fingerprint` puts them together with a
stage's configuration, seed and predecessors.

Door: fingerprint.fingerprint, definitions.locate, dependencies.reach, content.differs, provenance.code_version.
"""
