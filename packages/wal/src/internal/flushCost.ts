/**
 * What a flush costs: a fixed part, and a part for each record. A straight line through the recent flushes, in which
 * older ones fade.
 *
 * Flushes that are all of one size say nothing about the slope: as long as the sizes vary too little it stays what it
 * was, and at the beginning it is zero.
 */

/** How much of the averages a new flush is. */
const newest = 0.02
/** The sizes have to vary by so much of their mean before the slope follows them: a tenth, squared. */
const leastVariation = 0.01
/** The median is over so many flushes: an odd number, and few enough to follow a disk that changes. */
const medianOf = 15

/** @internal */
export class FlushCost {
  private readonly recent: Array<number> = []
  private flushes = 0
  private meanRecords = 0
  private meanMicros = 0
  private variance = 0
  private covariance = 0
  private microsPerRecord = 0

  note(records: number, micros: number): void {
    this.recent.push(micros)
    if (this.recent.length > medianOf) this.recent.shift()
    this.flushes += 1
    const weight = Math.max(1 / this.flushes, newest)
    const recordsOff = records - this.meanRecords
    const microsOff = micros - this.meanMicros
    this.meanRecords += weight * recordsOff
    this.meanMicros += weight * microsOff
    this.variance = (1 - weight) * (this.variance + weight * recordsOff * recordsOff)
    this.covariance = (1 - weight) * (this.covariance + weight * recordsOff * microsOff)
    if (this.variance > leastVariation * this.meanRecords * this.meanRecords) {
      // Neither part is negative, whatever the noise says.
      this.microsPerRecord = Math.min(Math.max(this.covariance / this.variance, 0), this.meanMicros / this.meanRecords)
    }
  }

  /** What even an empty flush would cost; 0 before the first flush. */
  get fixedMicros(): number {
    return Math.max(0, this.meanMicros - this.microsPerRecord * this.meanRecords)
  }

  /** Of the recent flushes; 0 before the first. */
  get medianMicros(): number {
    return this.recent.toSorted((a, b) => a - b)[this.recent.length >> 1] ?? 0
  }
}
