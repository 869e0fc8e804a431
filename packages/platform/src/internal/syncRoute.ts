/**
 * Which way a small durable write goes: now, on the calling thread, or through the thread pool.
 *
 * A hop to the pool and back costs tens of microseconds, twice per write-and-sync; a fast device needs about as long
 * for the sync itself. So the calling thread does it when the device has been fast lately and nothing speaks against
 * it. Decision 0004 has the figures.
 *
 * Invariants:
 * 1. Nothing is done on the calling thread before the pool has shown once how long this device takes.
 * 2. In one turn of the event loop at most one write-and-sync per device is done on the calling thread: `running` counts
 *    it until the turn is over. Meanwhile another file takes the pool, and the same file waits for the next turn: who
 *    comes again so soon is a leader with more work, and there is nobody for it to meet.
 * 3. The calling thread takes only batches whose bytes, together with what an earlier plain write left to be synced,
 *    stay within `maxBytes`: a sync pays for everything that is dirty.
 * 4. Where calls meet, as those of the lanes of a parallel log do, the next ones take the pool as well: there they
 *    overlap, while on the calling thread the first would hold up the others.
 *
 * @internal
 */

export interface SyncRouteLimits {
  /** Recent duration of a write-and-sync below which it is done on the calling thread. 0: never. */
  readonly maxMicros: number
  /** Most bytes that one sync on the calling thread may have to bring to the device. */
  readonly maxBytes: number
}

/** One device, as it has been lately. */
export interface SyncRoute {
  /** Write-and-syncs that are under way, or were done in this turn of the event loop. */
  running: number
  /** Moving average of their duration in microseconds; NaN before the first. */
  recentMicros: number
  /** How many more calls take the pool because two have met. */
  crowdedCalls: number
  /** Whose write-and-sync was done on the calling thread in this turn of the event loop. */
  onThreadInThisTurn: object | undefined
}

/**
 * Weight of the newest duration. With a quarter, one outlier of 50 times the limit makes the average 12.5 times the
 * limit and sends the next 9 calls to the pool (0.75^9 < 1/12.5), and a device that became slow is noticed by the first
 * or second call.
 */
const newestWeight = 0.25

/** More than most parallel logs have lanes: one meeting per round of its lanes keeps all of them in the pool. */
const crowdedCallsAfterMeeting = 16

export const makeSyncRoute = (): SyncRoute => ({
  running: 0,
  recentMicros: Number.NaN,
  crowdedCalls: 0,
  onThreadInThisTurn: undefined
})

/** Enters a call and answers whether it is to be done on the calling thread; `leaveRoute` ends it. */
export const enterRoute = (route: SyncRoute, limits: SyncRouteLimits, bytes: number): boolean => {
  if (route.running > 0) route.crowdedCalls = crowdedCallsAfterMeeting
  else if (route.crowdedCalls > 0) route.crowdedCalls--
  const isAlone = route.running === 0 && route.crowdedCalls === 0
  route.running++
  // NaN compares false: an unknown device takes the pool (invariant 1).
  return isAlone && bytes <= limits.maxBytes && route.recentMicros < limits.maxMicros
}

export const leaveRoute = (route: SyncRoute): void => {
  route.running--
}

/** Leaves when the turn of the event loop is over in which `file` has used the calling thread. */
export const leaveRouteAfterTurn = (route: SyncRoute, file: object): void => {
  route.onThreadInThisTurn = file
  setImmediate(() => {
    route.onThreadInThisTurn = undefined
    leaveRoute(route)
  })
}

export const recordDuration = (route: SyncRoute, micros: number): void => {
  route.recentMicros = Number.isNaN(route.recentMicros)
    ? micros
    : route.recentMicros + (micros - route.recentMicros) * newestWeight
}
