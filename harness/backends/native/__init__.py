"""This project's own engine: joined linears, a cache of fixed size, replayed steps, packed zeros and integer codes."""
