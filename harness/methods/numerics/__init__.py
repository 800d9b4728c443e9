"""Arithmetic that several methods share: Hessians, columns, masks, rounding, exact folds of scales."""
