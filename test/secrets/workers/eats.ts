const eaten: number[][] = []
for (;;) eaten.push(Array.from({ length: 100_000 }, Math.random))
