//! The ${{ }} expression language, pure.
