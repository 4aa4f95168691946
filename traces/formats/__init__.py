"""Trace formats, a file each: it owns the columns, the quirks, the licence, the citation and the complaints."""
