"""Values as people would rather see them: tables, texts, charts. Floor 3: calls ``render``; the door to matplotlib."""
