import { expect, test } from 'vitest'
import { createFew } from '../../src/secrets/few.ts'

test('a few things are made once, and the one that was not asked for longest goes, whatever names come', () => {
  const ended: string[] = []
  const few = createFew<string>(2, (one) => void ended.push(one))
  const get = (name: string): string => few.get(name, () => `${name}${ended.length}`)
  expect([get('a'), get('b'), get('a')]).toEqual(['a0', 'b0', 'a0'])
  get('c')
  expect(ended).toEqual(['b0'])
  expect(get('a')).toBe('a0')
  few.drop('a')
  few.drop('never there')
  few.clear()
  expect(ended).toEqual(['b0', 'a0', 'c0'])
})
