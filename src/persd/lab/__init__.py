"""The embedded task family, its student's pre-training and the measurement of its teacher.

``steps`` is the vocabulary of single steps, ``family`` chains them into tasks and renders
solutions in three styles. ``corpus`` and ``pretrain`` make the checkpoint in ``student/``.
``edits``, ``blocks`` and ``hunks`` propose repairs for the teacher (``persd.models.repair``),
and ``measure`` counts what becomes of them.

The family exercises the pipeline without a network, a GPU or a key. It is no evidence for
any claim about distillation: what helps its student is mostly labels in its own style.
"""
