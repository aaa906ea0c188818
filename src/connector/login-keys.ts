import { problem } from '../host/facts.ts'
import type { InspectResult, Problem } from '../protocol/results.ts'
import { factsOf, type Hop, nextKeyOf, placeOf, type Route } from '../ssh/route.ts'

/** The fingerprint of the key that each hop was logged in to with. */
export type Logins = ReadonlyMap<Hop, string>

const whichKey = (hop: Hop, logins: Logins): InspectResult['loginKey'] => {
  const taken = logins.get(hop)
  const next = nextKeyOf(hop)
  if (taken === undefined) return undefined
  if (next === undefined) return 'only'
  return taken === next.fingerprint ? 'next' : 'current'
}

const notTaken = (hop: Hop, isJump: boolean): Problem => {
  const where = `${isJump ? 'jump host ' : ''}${placeOf(hop)}`
  return problem('warning', 'next_key_not_taken', where, {
    ...factsOf(hop),
    publicLine: nextKeyOf(hop)?.publicLine ?? '',
  })
}

const cannotBeOpened = ({ target }: Route): Problem[] => {
  const { nextUnusable } = target.key
  if (!nextUnusable) return []
  const { message, hint } = nextUnusable
  return [{ ...problem('warning', 'next_key_unusable', message, factsOf(target)), hint }]
}

/**
 * What an inspection says of the keys of a secret that holds two: which one the server took, and who on the way there still
 * needs the current one. The connection was made, or chosen, to find that out (`nextFirst`).
 */
export const keysTaken = (route: Route, logins: Logins) => {
  const { jumps, target } = route
  const loginKey = whichKey(target, logins)
  const needsCurrent = [...jumps, target].filter((hop) => whichKey(hop, logins) === 'current')
  return {
    ...(loginKey === undefined ? {} : { loginKey }),
    problems: [...cannotBeOpened(route), ...needsCurrent.map((hop) => notTaken(hop, hop !== target))],
  }
}
