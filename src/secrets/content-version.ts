import { createHmac } from 'node:crypto'
import type { Random } from '../observability/random.ts'

/**
 * For stores whose own versions come again, or that have none: what changes with the content, and says nothing about it to
 * who does not hold this process's key.
 */
export const contentVersion = (random: Random): ((content: string | Uint8Array) => string) => {
  const key = random(32)
  return (content) => createHmac('sha256', key).update(content).digest('hex').slice(0, 32)
}
