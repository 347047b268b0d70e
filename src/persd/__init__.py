"""persd: personalised distillation. The loop is in ``persd.loop``; read it first."""

__version__ = "0.1.0"
