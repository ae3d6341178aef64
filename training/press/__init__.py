"""Pictures drawn by Chromium and LibreOffice, which training never uses: see pages.py."""
