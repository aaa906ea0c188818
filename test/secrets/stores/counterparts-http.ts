import type { Counterpart } from './conformance.ts'
import type { HttpFault, HttpFaultProxy } from './fault-proxy.ts'

/** The faults of a store that is reached over HTTP, made by a proxy before it. */
export const httpFaults = (proxy: HttpFaultProxy, throttled: HttpFault): NonNullable<Counterpart['faults']> => ({
  fail: (times) => proxy.plan(...Array.from({ length: times }, () => ({ status: 500, body: '{}' }))),
  throttle: (times) => proxy.plan(...Array.from({ length: times }, () => throttled)),
  hangOnce: () => proxy.plan({ hang: true }),
  down: () => proxy.always({ status: 503, body: '<html>down</html>' }),
  hang: () => proxy.always({ hang: true }),
  mend: () => proxy.always(null),
})
