"""Whatever a check touches is put back: random generators, arrays, containers, attributes."""
