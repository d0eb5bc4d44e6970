"""Room 3: one package per outside part; siblings never import each other."""
