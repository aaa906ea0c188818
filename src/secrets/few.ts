/**
 * A few things by name, made when they are asked for. The one that was not asked for longest makes room: the names are the
 * control plane's, which can think of any number.
 */
export interface Few<T> {
  get(name: string, make: () => T): T
  drop(name: string): void
  clear(): void
}

/** `end` is told of each that goes. */
export const createFew = <T>(most: number, end: (one: T) => void = () => undefined): Few<T> => {
  const all = new Map<string, T>()

  const drop = (name: string): void => {
    const one = all.get(name)
    all.delete(name)
    if (one !== undefined) end(one)
  }

  return {
    get: (name, make) => {
      const one = all.get(name) ?? make()
      all.delete(name)
      all.set(name, one)
      const [oldest] = all.keys()
      if (all.size > most && oldest !== undefined) drop(oldest)
      return one
    },
    drop,
    clear: () => {
      for (const name of [...all.keys()]) drop(name)
    },
  }
}
